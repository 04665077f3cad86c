"""Log probabilities for the sequences that ask: computed on the device, read on the host when the ids are read."""

from collections.abc import Sequence as List
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpu_worker.execution.sampler import top_alternatives
from gpu_worker.execution.staging import StagingRing
from gpu_worker.scheduling.batch import TokenLogprobs
from gpu_worker.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True)
class AskedLogprobs:
    """Of a step: the places in the batch that asked, how many alternatives each wants, and the results.

    `words` is [num_places, 2 + 2 * max alternatives] int32 on the device: token id, bits of its log probability,
    ids of the alternatives, bits of theirs. It is what the host needs a copy of.
    """

    places: tuple[int, ...]
    nums_top: tuple[int, ...]
    words: Tensor


@torch.inference_mode()
def ask_logprobs(
    logits: Tensor, token_ids: Tensor, sequences: List[Sequence], staging: StagingRing
) -> AskedLogprobs | None:
    """From the model's own logits [num_rows, vocab_size] and the chosen ids; None if no sequence asks."""
    from gpu_worker.kernels.triton_ops.logprobs import top_logprobs  # noqa: PLC0415

    places = [place for place, sequence in enumerate(sequences) if sequence.sampling.return_logprob]
    if not places:
        return None
    nums_top = tuple(min(sequences[place].sampling.top_logprobs_num, logits.shape[1]) for place in places)
    if len(places) < len(logits):
        index = staging.upload(np.array(places, dtype=np.int32))
        logits, token_ids = logits.index_select(0, index), token_ids.index_select(0, index)
    chosen, top_ids, top_values = top_logprobs(logits, token_ids, max(nums_top))
    columns = (token_ids[:, None].int(), chosen[:, None].view(torch.int32), top_ids.int(), top_values.view(torch.int32))
    return AskedLogprobs(tuple(places), nums_top, torch.cat(columns, dim=1))


def read_logprobs(asked: AskedLogprobs, words: Tensor) -> dict[int, TokenLogprobs]:
    """By place in the batch, from the host's copy of `asked.words`."""
    max_top = max(asked.nums_top)
    token_ids, top_ids = words[:, 0].tolist(), words[:, 2 : 2 + max_top].tolist()
    floats = words.view(torch.float32)
    chosen, top_values = floats[:, 1].tolist(), floats[:, 2 + max_top :].tolist()
    columns = zip(asked.places, asked.nums_top, token_ids, chosen, top_ids, top_values, strict=True)
    return {
        place: TokenLogprobs(value, top_alternatives(num_top, token_id, value, ids, values))
        for place, num_top, token_id, value, ids, values in columns
    }
