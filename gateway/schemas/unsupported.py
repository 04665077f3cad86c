"""Parameters that clients of other servers know and Millrace does not have: refused by name, never ignored."""

from typing import Any

import msgspec

from gateway.errors import bad_request

Neutral = tuple[Any, ...]
UNSET: Neutral = (None,)
UNSET_OR_EMPTY: Neutral = (None, "", [], {})
UNSET_OR_OFF: Neutral = (None, False)


def refuse_unsupported(body: msgspec.Struct, neutral: dict[str, Neutral]) -> None:
    """Raises a 400 naming the first parameter of `neutral` that has a value with an effect."""
    for name, values in neutral.items():
        given = getattr(body, name)
        if not any(given is value or (type(given) is type(value) and given == value) for value in values):
            raise bad_request(f"{name} is not supported.", param=name)
