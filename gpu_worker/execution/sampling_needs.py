"""Which parts of sampling the sequences of a batch use, as the host knows it: parts that nobody uses cost nothing."""

from collections.abc import Iterable
from enum import IntFlag

from gpu_worker.scheduling.sequence import Sequence, has_penalties, is_greedy


class Needs(IntFlag):
    """Combine with `|`. NOTHING is the most likely id for every sequence."""

    NOTHING = 0
    NOISE = 1
    FILTERS = 2
    EDITS = 4
    """Penalties, bias, or ids that must not come yet."""
    PENALTIES = 8
    """Always with EDITS."""
    LOGPROBS = 16


def needs_of(sequences: Iterable[Sequence]) -> Needs:
    """Those of a batch. It stays right when the sequences get longer, if not the least, so it can be kept."""
    needs = Needs.NOTHING
    for sequence in sequences:
        if not sequence.is_plain_greedy:
            needs |= _needs_of_one(sequence)
    return needs


def has_filters(sequence: Sequence) -> bool:
    """Whether top-k, top-p or min-p can drop an id."""
    params = sequence.sampling
    return not is_greedy(params) and (params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0)


def _needs_of_one(sequence: Sequence) -> Needs:
    params = sequence.sampling
    needs = Needs.NOTHING if is_greedy(params) else Needs.NOISE
    if has_filters(sequence):
        needs |= Needs.FILTERS
    if has_penalties(params):
        needs |= Needs.PENALTIES | Needs.EDITS
    if params.logit_bias or sequence.num_output_tokens < params.min_new_tokens:
        needs |= Needs.EDITS
    if params.return_logprob:
        needs |= Needs.LOGPROBS
    return needs
