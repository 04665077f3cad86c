"""Logprobs in the three forms that clients know."""

from collections.abc import Sequence
from typing import Any

from gateway.inflight.choice import TokenLogprob


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def of_chat(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """A chat's `logprobs`."""
    return {"content": [_entry(token) | {"top_logprobs": [_entry(top) for top in token.top]} for token in tokens]}


def _entry(token: Any) -> dict[str, Any]:
    return {"token": _text(token.text), "bytes": list(token.text), "logprob": token.logprob}


def of_completion(tokens: Sequence[TokenLogprob], text_offset: int) -> dict[str, Any]:
    """A completion's `logprobs`. `text_offset` is where the first token's text begins.

    With no alternatives asked for, the chosen token stands alone, as in vLLM.
    """
    texts = [_text(token.text) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(text_offset)
        text_offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {_text(top.text): top.logprob for top in token.top} | {text: token.logprob}
            for token, text in zip(tokens, texts, strict=True)
        ],
        "text_offset": offsets,
    }


def of_native(
    tokens: Sequence[TokenLogprob], token_ids: Sequence[int], *, with_text: bool, with_top: bool
) -> dict[str, Any]:
    """The output logprobs of a `meta_info`: triples of logprob, id, and text or null."""
    chosen = [
        (token.logprob, token_id, _text(token.text) if with_text else None)
        for token, token_id in zip(tokens, token_ids, strict=False)
    ]
    fields: dict[str, Any] = {
        "input_token_logprobs": [],
        "output_token_logprobs": chosen,
        "output_token_logprobs_length": len(chosen),
    }
    if with_top:
        fields["input_top_logprobs"] = []
        fields["output_top_logprobs"] = [
            [(top.logprob, top.token_id, _text(top.text) if with_text else None) for top in token.top]
            for token in tokens
        ]
    return fields
