"""What a disturbed stream must have in common with an undisturbed one: everything but timings and cached tokens."""

import math
from collections.abc import Iterator
from typing import Any

from tests.chaos.clients import ChaosStream, Shown

_LOGPROB_TOLERANCE = 1e-6


def differences(stream: ChaosStream, expected: ChaosStream) -> list[str]:
    """One line each; none means equal."""
    name = stream.ask.name
    if stream.error is not None:
        return [f"{name}: failed after {stream.num_tokens} tokens: {stream.error!r}"]
    found = [] if stream.usage == expected.usage else [f"{name}: usage {stream.usage}, not {expected.usage}"]
    if stream.choices.keys() != expected.choices.keys():
        return [*found, f"{name}: choices {sorted(stream.choices)}, not {sorted(expected.choices)}"]
    for index, shown in stream.choices.items():
        found += [f"{name}, choice {index}: {line}" for line in _unequal(shown, expected.choices[index])]
    return found


def is_beginning(stream: ChaosStream, expected: ChaosStream) -> bool:
    """Whether what a stream that was cut off has shown is a beginning of what it should have shown."""
    return all(
        expected.choices[index].text.startswith(shown.text)
        and expected.choices[index].token_ids[: len(shown.token_ids)] == shown.token_ids
        for index, shown in stream.choices.items()
    )


def _unequal(shown: Shown, expected: Shown) -> Iterator[str]:
    if shown.token_ids != expected.token_ids:
        yield f"token ids differ from index {_first_difference(shown.token_ids, expected.token_ids)} on"
    if shown.text != expected.text:
        at = _first_difference(shown.text, expected.text)
        yield f"text differs from {at} on: {shown.text[at : at + 40]!r}, not {expected.text[at : at + 40]!r}"
    if shown.finish != expected.finish:
        yield f"finish {shown.finish}, not {expected.finish}"
    if not _is_close(shown.logprobs, expected.logprobs):
        yield f"logprobs differ ({len(shown.logprobs)} of {len(expected.logprobs)})"


def _first_difference(one: Any, other: Any) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _is_close(one: Any, other: Any) -> bool:
    """Equal in form and in everything but numbers, which may differ by the rounding of another batch."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, abs_tol=_LOGPROB_TOLERANCE)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_close, one, other))
    return bool(one == other)
