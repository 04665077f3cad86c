"""A model on a device, with everything that its steps share."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from gpu_worker.execution.device_tables import DeviceTables
from gpu_worker.execution.sampling_needs import Needs
from gpu_worker.execution.sampling_tables import SamplingTables
from gpu_worker.execution.staging import StagingRing
from gpu_worker.kernels.kernels import Kernels
from gpu_worker.models.decoder import Decoder, KvLayer
from gpu_worker.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """How many sequences run at once, how many pages each has at most, how many tokens a page holds."""

    max_seqs: int
    max_pages: int
    page_size: int


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """Weights, KV memory and the tables of running sequences. `tables` and `sampling` have a spare row, the last."""

    decoder: Decoder
    kv_layers: list[KvLayer]
    kernels: Kernels
    tables: DeviceTables
    sampling: SamplingTables
    staging: StagingRing
    limits: DeviceLimits

    def enter(self, sequences: Iterable[Sequence]) -> None:
        """Take in what sampling must know of those of these sequences that the device does not know yet."""
        entering = [sequence for sequence in sequences if not sequence.is_on_device]
        if not entering:
            return
        self.tables.enter(entering)
        for sequence in entering:
            self.sampling.enter(sequence.table_row, sequence)
            sequence.is_on_device = True
        self.sampling.flush()

    def choose(
        self, logits: Tensor, rows: Tensor, context_lens: Tensor, needs: Needs, out: Tensor | None = None
    ) -> Tensor:
        """The next ids, int64 [num_seqs], from [num_seqs, vocab_size] logits; the next step finds them in the tables.

        `rows` are table rows, `context_lens` count the tokens of which the next one is chosen.
        """
        rows_64 = rows.long()
        # The greedy choice does not depend on the place.
        output_indexes = context_lens if needs is Needs.NOTHING else context_lens - self.tables.prompt_lens[rows_64]
        token_ids = self.sampling.sample(logits, rows, output_indexes, needs, out=out)
        self.tables.last_ids.scatter_(0, rows_64, token_ids)
        return token_ids


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a step has chosen, on the device: an id, and the logits that it comes from, for each of these sequences."""

    sequences: list[Sequence]
    token_ids: Tensor | None
    logits: Tensor
    needs: Needs
    has_graph: bool
