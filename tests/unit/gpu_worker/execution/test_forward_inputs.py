"""The integers of a batch, as the model gets them."""

from array import array

import torch

from gpu_worker.execution.forward_inputs import build_forward_inputs
from gpu_worker.scheduling.batch import Batch, ScheduledSequence
from gpu_worker.scheduling.sequence import Sequence, new_sequences
from tests.unit.gpu_worker.builders import request


def sequence(token_ids: list[int], num_computed: int, page_table: list[int], max_new_tokens: int = 4) -> Sequence:
    asked = request(token_ids, max_new_tokens=max_new_tokens)
    (made,) = new_sequences(asked, lambda _, params: params.max_new_tokens or 0, frozenset(), 0)
    made.num_computed_tokens = num_computed
    made.page_table = array("i", page_table)
    return made


def test_decodes_come_first_then_chunks_with_their_slots_and_tables() -> None:
    decode = ScheduledSequence(sequence([10, 11, 12, 13, 14], 4, [7, 3]), 1, samples=True)
    partial = ScheduledSequence(sequence([20, 21, 22, 23, 24, 25, 26], 2, [5, 0]), 3, samples=False)
    last = ScheduledSequence(sequence([30, 31], 0, [9]), 2, samples=True)
    inputs = build_forward_inputs(Batch([decode, partial, last], 1), 4, torch.device("cpu"))
    assert inputs.token_ids.tolist() == [14, 22, 23, 24, 30, 31]
    assert inputs.positions.tolist() == [4, 2, 3, 4, 0, 1]
    assert inputs.slot_mapping.tolist() == [12, 22, 23, 0, 36, 37]
    assert inputs.page_tables.tolist() == [[7, 3], [5, 0], [9, 0]]
    assert inputs.context_lens.tolist() == [5, 5, 2]
    assert (inputs.num_decodes, inputs.decode_plan.max_context_len) == (1, 5)
    assert (inputs.num_chunks, inputs.chunk_starts.tolist(), inputs.max_chunk_len) == (2, [0, 3, 5], 3)
    assert inputs.logit_rows is not None
    # The chunk that leaves tokens uncomputed does not sample.
    assert inputs.logit_rows.tolist() == [0, 5]


def test_decodes_alone_want_all_logits() -> None:
    decodes = [ScheduledSequence(sequence([1, 2], 1, [page]), 1, samples=True) for page in (4, 2)]
    inputs = build_forward_inputs(Batch(decodes, 2), 4, torch.device("cpu"))
    assert inputs.logit_rows is None
    assert inputs.slot_mapping.tolist() == [17, 9]


def test_a_prompt_without_new_tokens_wants_no_logits() -> None:
    chunk = ScheduledSequence(sequence([1, 2], 0, [0], max_new_tokens=0), 2, samples=False)
    inputs = build_forward_inputs(Batch([chunk], 0), 4, torch.device("cpu"))
    assert inputs.logit_rows is not None
    assert inputs.logit_rows.tolist() == []
