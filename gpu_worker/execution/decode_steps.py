"""Steps in which every sequence decodes one token, as nearly all do. The device goes from one to the next by itself."""

from torch import Tensor

from gpu_worker.execution.decode_buffers import DecodeBuffers
from gpu_worker.execution.device_model import Chosen, DeviceModel
from gpu_worker.execution.graphs import GraphPool, Graphs, decode_sizes, next_size
from gpu_worker.execution.sampling_needs import Needs, needs_of
from gpu_worker.models.forward_inputs import ForwardInputs
from gpu_worker.scheduling.batch import Batch
from gpu_worker.scheduling.sequence import Sequence

# The ways to sample that are recorded; what is rarer takes a few launches of its own.
_RECORDED_NEEDS = (Needs.NOTHING, Needs.NOISE)


class DecodeSteps:
    """Launches them, from CUDA graphs where there are some of the size."""

    def __init__(self, model: DeviceModel) -> None:
        self._model = model
        self._buffers = DecodeBuffers(model.limits.max_seqs, model.limits.max_seqs, model.tables.last_ids.device)
        self._sizes: list[int] = []
        self._forwards: Graphs[int, Tensor] | None = None
        self._choices: Graphs[tuple[int, Needs], Tensor] | None = None
        self._sequences: list[Sequence] = []
        self._needs = Needs.NOTHING

    def record(self, pool: GraphPool, max_size: int) -> None:
        """Make graphs of batches up to `max_size`."""
        self._sizes = decode_sizes(max_size)
        forwards: Graphs[int, Tensor] = Graphs(pool)
        forwards.record("decodes", self._sizes[::-1], self._forward)
        choices: Graphs[tuple[int, Needs], Tensor] = Graphs(pool)
        logits = {size: forwards.replay(size) for size in self._sizes}
        keys = [(size, needs) for size in self._sizes[::-1] for needs in _RECORDED_NEEDS]
        choices.record("sampling", keys, lambda key: self._choose(logits[key[0]], key[0], key[1]))
        self._forwards, self._choices = forwards, choices

    def run(self, batch: Batch) -> Chosen:
        """Launch a step; the pages and parameters of its sequences are on the device."""
        if batch.run is None:
            self._load(batch)
        num_seqs, needs = batch.num_decodes, self._needs
        size = next_size(self._sizes, num_seqs)
        if size is None or self._forwards is None or self._choices is None:
            logits = self._forward(num_seqs)
            return Chosen(self._sequences, self._choose(logits, num_seqs, needs), logits, needs, False)
        logits = self._forwards.replay(size)
        key = (size, needs & ~Needs.LOGPROBS)
        token_ids = self._choices.replay(key) if key in self._choices else self._choose(logits, num_seqs, needs)
        return Chosen(self._sequences, token_ids[:num_seqs], logits[:num_seqs], needs, True)

    def _load(self, batch: Batch) -> None:
        """Tell the device which sequences decode; a batch that repeats the one before need not."""
        self._sequences = [scheduled.sequence for scheduled in batch.scheduled]
        self._needs = needs_of(self._sequences)
        columns = [(sequence.table_row, sequence.num_computed_tokens) for sequence in self._sequences]
        self._buffers.load(columns, self._model.staging)

    def _forward(self, num_seqs: int) -> Tensor:
        """Logits [num_seqs, vocab_size] of the next token of the first sequences in the buffers."""
        model, rows = self._model, self._buffers.first(num_seqs)
        tables = model.tables
        model.kernels.begin_decode_(
            rows.table_rows,
            rows.context_lens,
            tables.last_ids,
            tables.page_tables,
            model.limits.page_size,
            rows.token_ids,
            rows.positions,
            rows.slot_mapping,
        )
        inputs = ForwardInputs(
            token_ids=rows.token_ids,
            positions=rows.positions,
            slot_mapping=rows.slot_mapping,
            page_tables=tables.page_tables,
            table_rows=rows.table_rows,
            context_lens=rows.context_lens,
            num_decodes=num_seqs,
            decode_plan=model.kernels.plan_decodes(rows.context_lens),
            chunk_starts=None,
            max_chunk_len=0,
            logit_rows=None,
        )
        return model.decoder.forward(inputs, model.kv_layers)

    def _choose(self, logits: Tensor, num_seqs: int, needs: Needs) -> Tensor:
        """Ids for the first `num_seqs` rows of the logits."""
        rows = self._buffers.first(num_seqs)
        return self._model.choose(logits[:num_seqs], rows.sampler_rows, rows.context_lens, needs, out=rows.chosen_ids)
