"""The bodies of SGLang's native routes."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.schemas.unsupported import UNSET, UNSET_OR_EMPTY, UNSET_OR_OFF, Neutral

Id = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Ids = list[Id]


class GenerateRequest(msgspec.Struct, kw_only=True):
    """`/generate`. Give `text` or `input_ids`, one prompt or a list. Unknown fields are ignored.

    A list, or `n` above 1, is answered by a list, prompt by prompt. Streams send the whole text so far in every event,
    unless the server runs with `--incremental-streaming-output`; the last event is `data: [DONE]`.
    """

    text: str | list[str] | None = None
    input_ids: list[Any] | None = None
    sampling_params: dict[str, Any] | list[dict[str, Any]] | None = None
    rid: str | list[str] | None = None
    stream: bool | None = None
    return_logprob: bool | list[bool] | None = None
    logprob_start_len: int | list[int] | None = None
    top_logprobs_num: int | list[int] | None = None
    return_text_in_logprobs: bool | None = None
    return_prompt_token_ids: bool | None = None

    token_ids_logprob: Any = None
    input_embeds: Any = None
    image_data: Any = None
    video_data: Any = None
    audio_data: Any = None
    modalities: Any = None
    lora_path: Any = None
    custom_logit_processor: Any = None
    return_hidden_states: Any = None
    session_id: Any = None
    session_params: Any = None
    cache_salt: Any = None
    extra_key: Any = None
    priority: Any = None
    require_reasoning: Any = None
    max_thinking_tokens: Any = None
    bootstrap_host: Any = None
    bootstrap_port: Any = None
    bootstrap_room: Any = None
    data_parallel_rank: Any = None
    routed_dp_rank: Any = None


UNSUPPORTED: dict[str, Neutral] = {
    "token_ids_logprob": UNSET_OR_EMPTY,
    "input_embeds": UNSET,
    "image_data": UNSET_OR_EMPTY,
    "video_data": UNSET_OR_EMPTY,
    "audio_data": UNSET_OR_EMPTY,
    "modalities": UNSET_OR_EMPTY,
    "lora_path": UNSET_OR_EMPTY,
    "custom_logit_processor": UNSET_OR_EMPTY,
    "return_hidden_states": UNSET_OR_OFF,
    "session_id": UNSET_OR_EMPTY,
    "session_params": UNSET_OR_EMPTY,
    "cache_salt": UNSET_OR_EMPTY,
    "extra_key": UNSET_OR_EMPTY,
    "priority": (None, 0),
    "require_reasoning": UNSET_OR_OFF,
    "max_thinking_tokens": UNSET,
    "bootstrap_host": UNSET,
    "bootstrap_port": UNSET,
    "bootstrap_room": UNSET,
    "data_parallel_rank": UNSET,
    "routed_dp_rank": UNSET,
}


class NativeSampling(msgspec.Struct, kw_only=True):
    """`sampling_params` of `/generate`. A null means the default; an unknown field is an error.

    `max_new_tokens` is 128 when absent (less near the end of the context), and up to the end of the context when null.
    """

    max_new_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    min_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int | None] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    no_stop_trim: bool | None = None
    n: int | None = None
    logit_bias: dict[str, float] | None = None
    sampling_seed: int | None = None
    stream_interval: int | None = None

    json_schema: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: str | None = None
    stop_regex: str | list[str] | None = None
    beam_width: int | None = None
    custom_params: dict[str, Any] | None = None
    watermark: dict[str, Any] | None = None


UNSUPPORTED_SAMPLING: dict[str, Neutral] = {
    "json_schema": UNSET_OR_EMPTY,
    "regex": UNSET_OR_EMPTY,
    "ebnf": UNSET_OR_EMPTY,
    "structural_tag": UNSET_OR_EMPTY,
    "stop_regex": UNSET_OR_EMPTY,
    "beam_width": (None, 1),
    "custom_params": UNSET_OR_EMPTY,
    "watermark": UNSET_OR_EMPTY,
}


class AbortRequest(msgspec.Struct, kw_only=True):
    """`/abort_request`: every request whose id begins with `rid`, or all."""

    rid: str | None = None
    abort_all: bool | None = None


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """`/tokenize`: either `prompt` or `messages`."""

    model: str | None = None
    prompt: str | list[str] | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    add_special_tokens: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """`/detokenize`: ids of one text, or of several."""

    tokens: list[Id | Ids]
    model: str | None = None
    skip_special_tokens: bool | None = None
