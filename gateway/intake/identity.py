"""Request ids: the client's own, or drawn."""

import uuid
from collections.abc import Sequence

from gateway.errors import bad_request

_MAX_LENGTH = 256


def request_ids(given: str | Sequence[str] | None, num_prompts: int, *, is_batch: bool) -> list[str]:
    """One id per prompt; a single string is numbered over a batch. Duplicates are a 400."""
    if given is None:
        return [uuid.uuid4().hex for _ in range(num_prompts)]
    if isinstance(given, str):
        ids = [f"{given}_{i}" for i in range(num_prompts)] if is_batch else [given]
    else:
        ids = list(given)
    _check(ids, num_prompts)
    return ids


def _check(ids: list[str], num_prompts: int) -> None:
    if len(ids) != num_prompts:
        raise bad_request(f"rid must have one id per prompt: {num_prompts}, got {len(ids)}.", param="rid")
    if len(set(ids)) != len(ids):
        raise bad_request("rid must not hold duplicates.", param="rid")
    if any(not 1 <= len(request_id) <= _MAX_LENGTH for request_id in ids):
        raise bad_request(f"rid must have 1 to {_MAX_LENGTH} characters.", param="rid")
