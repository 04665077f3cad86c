"""Sampling from tables on the device gives what the sampler of the host gives, with ids that the host has not seen."""

import random

import pytest
import torch
from torch import Tensor

# First, because it chooses Triton's interpreter where there is no GPU.
from tests.unit.gpu_worker.kernels.conftest import DEVICE  # isort: skip
from gpu_worker.execution.sampler import sample_tokens
from gpu_worker.execution.sampling_needs import Needs, needs_of
from gpu_worker.execution.sampling_tables import SamplingTables
from gpu_worker.execution.token_logprobs import read_logprobs
from gpu_worker.scheduling.sequence import Sequence, new_sequences
from tests.unit.gpu_worker.builders import request
from tests.unit.gpu_worker.kernels.interpreter import allow_computed_loop_bounds

allow_computed_loop_bounds()

VOCAB_SIZE = 199
MAX_ROWS = 12
NUM_ROUNDS = 200 if DEVICE == "cuda" else 4


def sequence(**options: object) -> Sequence:
    asked = request([2, 2, 3, 190], **options)
    return new_sequences(asked, lambda _, params: params.max_new_tokens or 0, frozenset({1}), 0)[0]


def logits_of(num_rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_rows, VOCAB_SIZE, generator=generator) * 2).to(DEVICE)


class Rig:
    """Tables, and the rows that sequences have in them."""

    def __init__(self) -> None:
        self.tables = SamplingTables(MAX_ROWS, VOCAB_SIZE, torch.device(DEVICE))
        self.rows: dict[int, int] = {}

    def enter(self, row: int, entering: Sequence) -> None:
        self.tables.enter(row, entering)
        self.rows[entering.sequence_id] = row

    def sample(self, logits: Tensor, sequences: list[Sequence], needs: Needs | None = None) -> list[int]:
        self.tables.flush()
        columns = [[self.rows[s.sequence_id] for s in sequences], [s.num_output_tokens for s in sequences]]
        rows, output_indexes = torch.tensor(columns, dtype=torch.int32, device=DEVICE).unbind()
        needed = needs_of(sequences) if needs is None else needs
        ids: list[int] = self.tables.sample(logits, rows, output_indexes, needed).tolist()
        return ids


def random_options(draw: random.Random) -> dict[str, object]:
    """Parameters of which each is off as often as not."""
    choices: dict[str, object] = {
        "temperature": draw.choice([0.3, 1.0, 1.7]),
        "top_k": draw.choice([1, 3, 50, 500]),
        "top_p": draw.choice([0.1, 0.8, 0.97]),
        "min_p": draw.choice([0.01, 0.3]),
        "frequency_penalty": draw.choice([-0.5, 0.7]),
        "presence_penalty": draw.choice([-0.3, 1.1]),
        "repetition_penalty": draw.choice([0.8, 1.5]),
        "logit_bias": {draw.randrange(VOCAB_SIZE): draw.uniform(-9, 9) for _ in range(draw.choice([1, 5, 40]))},
        "min_new_tokens": draw.choice([1, 3]),
        "output_ids": tuple(draw.randrange(VOCAB_SIZE) for _ in range(draw.randrange(6))),
    }
    kept = {name: value for name, value in choices.items() if draw.random() < 0.5}
    return {"temperature": 0.0, **kept, "seed": draw.getrandbits(64) - (1 << 63)}


@pytest.mark.parametrize("number", range(NUM_ROUNDS))
def test_any_parameters_give_what_the_host_gives(number: int) -> None:
    draw = random.Random(number)
    rig = Rig()
    sequences = [sequence(**random_options(draw)) for _ in range(3)]
    for row, entering in zip(draw.sample(range(MAX_ROWS), len(sequences)), sequences, strict=True):
        rig.enter(row, entering)
    logits = logits_of(len(sequences), number)
    assert rig.sample(logits, sequences) == sample_tokens(logits, sequences).token_ids


def test_tokens_are_counted_without_the_host() -> None:
    rig = Rig()
    sequences = [
        sequence(frequency_penalty=0.9, presence_penalty=0.2),
        sequence(repetition_penalty=1.7, output_ids=(5, 5, 6)),
        sequence(temperature=1.0, seed=4, frequency_penalty=0.4, repetition_penalty=1.1),
        sequence(logit_bias={1: 30.0}, min_new_tokens=2),
        sequence(),
    ]
    for row, entering in enumerate(sequences):
        rig.enter(2 * row, entering)
    logits = logits_of(len(sequences))
    found: list[list[int]] = []
    for _ in range(6):
        # The first call of each step is what the host would do; the tables know the ids from their own steps only.
        expected = sample_tokens(logits, sequences).token_ids
        found.append(rig.sample(logits, sequences))
        assert found[-1] == expected
        for sampled, token_id in zip(sequences, found[-1], strict=True):
            sampled.token_ids.append(token_id)
    assert [ids[3] for ids in found] == [found[0][3]] * 2 + [1] * 4
    assert len({ids[0] for ids in found}) > 1


def test_a_row_keeps_nothing_of_who_left_it() -> None:
    rig = Rig()
    logits = logits_of(1)
    penalised = {"repetition_penalty": 1.9, "frequency_penalty": 1.0, "output_ids": (int(logits.argmax()), 8)}
    first = sequence(**penalised, logit_bias={3: 40.0})
    rig.enter(4, first)
    assert rig.sample(logits, [first]) == [3]
    for options in ({}, {"temperature": 1.0, "seed": 3}, {"frequency_penalty": 0.1}, {"logit_bias": {9: 50.0}}):
        following = sequence(**options)
        rig.enter(4, following)
        # Company with every need must not bring back what the row had.
        needs = Needs.EDITS | Needs.PENALTIES | needs_of([following])
        assert rig.sample(logits, [following], needs) == sample_tokens(logits, [following]).token_ids


def test_a_row_that_could_not_be_cleared_is_cleared_later(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    logits = logits_of(1)
    rig.enter(4, first := sequence(logit_bias={3: 40.0}))
    assert rig.sample(logits, [first]) == [3]

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    rig.enter(4, sequence())
    rig.enter(5, sequence(logit_bias=dict.fromkeys(range(20), 1.0)))
    with monkeypatch.context() as short_of_memory:
        short_of_memory.setattr(torch, "full", full)
        with pytest.raises(torch.OutOfMemoryError):
            rig.tables.flush()

    rig.enter(4, following := sequence())
    assert rig.sample(logits, [following], Needs.EDITS) == logits.argmax(dim=-1).tolist()


def test_a_sequence_that_comes_back_has_its_counts() -> None:
    rig = Rig()
    logits = logits_of(1)
    preempted = sequence(frequency_penalty=3.0)
    rig.enter(0, preempted)
    for row in (7, 0, 3):
        expected = sample_tokens(logits, [preempted]).token_ids
        assert rig.sample(logits, [preempted]) == expected
        preempted.token_ids.extend(expected)
        rig.enter(row, preempted)


def test_more_edits_than_before_keep_the_ones_of_others() -> None:
    rig = Rig()
    short, long = sequence(logit_bias={5: 60.0}), sequence(logit_bias=dict.fromkeys(range(100, 160), 0.5) | {7: 60.0})
    rig.enter(0, short)
    rig.tables.flush()
    rig.enter(1, long)
    assert rig.sample(logits_of(2), [short, long]) == [5, 7]


def test_counts_of_a_token_stop_before_they_overflow() -> None:
    rig = Rig()
    often = sequence(frequency_penalty=-1e-6, output_ids=(3,) * 32766)
    rig.enter(0, often)
    logits = torch.zeros((1, VOCAB_SIZE), device=DEVICE)
    logits[0, 3] = 1.0
    assert [rig.sample(logits, [often]) for _ in range(4)] == [[3]] * 4


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({}, Needs.NOTHING),
        ({"top_k": 5}, Needs.NOTHING),
        ({"temperature": 1.0}, Needs.NOISE),
        ({"temperature": 1.0, "top_p": 0.9}, Needs.NOISE | Needs.FILTERS),
        ({"logit_bias": {1: 1.0}}, Needs.EDITS),
        ({"min_new_tokens": 2, "output_ids": (5,)}, Needs.EDITS),
        ({"min_new_tokens": 2, "output_ids": (5, 6)}, Needs.NOTHING),
        ({"presence_penalty": 1.0}, Needs.EDITS | Needs.PENALTIES),
        ({"return_logprob": True}, Needs.LOGPROBS),
    ],
)
def test_needs_are_what_the_parameters_use(options: dict[str, object], needs: Needs) -> None:
    assert needs_of([sequence(), sequence(**options)]) == needs


def test_logprobs_are_those_of_the_host() -> None:
    rig = Rig()
    sequences = [
        sequence(return_logprob=True, top_logprobs_num=3),
        sequence(),
        sequence(return_logprob=True, logit_bias={11: 50.0}),
        sequence(return_logprob=True, top_logprobs_num=20, temperature=1.0, seed=5),
    ]
    for row, entering in enumerate(sequences):
        rig.enter(row, entering)
    logits = logits_of(len(sequences))
    expected = sample_tokens(logits, sequences).logprobs
    token_ids = torch.tensor(rig.sample(logits, sequences), device=DEVICE)
    asked = rig.tables.logprobs(logits, token_ids, sequences)
    assert asked is not None
    found = read_logprobs(asked, asked.words.cpu())
    assert found.keys() == expected.keys()
    for place, logprobs in found.items():
        assert logprobs.logprob == pytest.approx(expected[place].logprob, abs=1e-5)
        assert [id_ for id_, _ in logprobs.top] == [id_ for id_, _ in expected[place].top]
        assert [v for _, v in logprobs.top] == pytest.approx([v for _, v in expected[place].top], abs=1e-5)


def test_among_equals_the_chosen_one_is_the_first_of_the_top() -> None:
    rig = Rig()
    asking = sequence(return_logprob=True, top_logprobs_num=2)
    rig.enter(0, asking)
    logits = torch.zeros((1, VOCAB_SIZE), device=DEVICE)
    token_ids = torch.tensor(rig.sample(logits, [asking]), device=DEVICE)
    asked = rig.tables.logprobs(logits, token_ids, [asking])
    assert asked is not None
    logprobs = read_logprobs(asked, asked.words.cpu())[0]
    assert logprobs.top[0] == (int(token_ids), logprobs.logprob)
    assert len(logprobs.top) == 2


def test_nobody_asks_for_logprobs() -> None:
    rig = Rig()
    assert rig.tables.logprobs(logits_of(1), torch.zeros(1, dtype=torch.int64, device=DEVICE), [sequence()]) is None
