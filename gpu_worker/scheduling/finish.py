"""When a sequence is finished. Pure functions of its ids and parameters, so that a resume decides alike."""

from gpu_worker.scheduling.sequence import Finish, Sequence

LENGTH = Finish("length")
_NOTHING: frozenset[int] = frozenset()


def masked_ids(sequence: Sequence) -> frozenset[int]:
    """Ids that must not be sampled next, because `min_new_tokens` is not reached."""
    is_reached = sequence.num_output_tokens >= sequence.sampling.min_new_tokens
    return _NOTHING if is_reached else sequence.stopping_ids


def finish_of(sequence: Sequence) -> Finish | None:
    """The finish that the last output token causes, if any. A stop goes before a length."""
    num_outputs = sequence.num_output_tokens
    last = sequence.token_ids[-1]
    if last in sequence.stopping_ids and num_outputs > sequence.sampling.min_new_tokens:
        return Finish("stop", matched=last)
    return LENGTH if num_outputs >= sequence.max_new_tokens else None


def finish_of_given(sequence: Sequence) -> Finish | None:
    """The finish that the ids given on a resume already hold, if any: a stop anywhere, or the length."""
    given = sequence.output_ids
    for token_id in given[sequence.sampling.min_new_tokens :]:
        if token_id in sequence.stopping_ids:
            return Finish("stop", matched=token_id)
    return finish_of(sequence) if given else None
