"""Prompts as clients write them, to prompts as tokenizers take them."""

from typing import Any

import msgspec

from gateway.errors import bad_request
from gateway.schemas.native import Ids
from wire.columns import pack_u32
from wire.messages import Prompt, TextPrompt, TokensPrompt

MAX_PROMPTS = 4096


def is_ids(value: Any) -> bool:
    """Whether a list is one prompt of ids, and no list of prompts."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], int)


def ids_prompt(value: Any, name: str) -> TokensPrompt:
    """A prompt of token ids; raises a 400 unless all are in the range of ids."""
    try:
        token_ids = msgspec.convert(value, Ids)
    except msgspec.ValidationError as error:
        raise bad_request(f"{name}: {error}", param=name) from error
    if not token_ids:
        raise bad_request(f"{name} cannot be empty.", param=name)
    return TokensPrompt(pack_u32(token_ids))


def any_prompt(value: Any, name: str) -> Prompt:
    """A text or a list of ids."""
    if isinstance(value, str):
        return TextPrompt(value)
    if isinstance(value, list):
        return ids_prompt(value, name)
    raise bad_request(f"{name} must hold texts or token ids, got {type(value).__name__}.", param=name)


def check_num_prompts(prompts: list[Any], name: str) -> None:
    """Bounds what one call may ask for, and refuses a list of nothing."""
    if not prompts:
        raise bad_request(f"{name} cannot be empty.", param=name)
    if len(prompts) > MAX_PROMPTS:
        raise bad_request(f"{name} may hold at most {MAX_PROMPTS} prompts, got {len(prompts)}.", param=name)
