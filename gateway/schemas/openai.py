"""The bodies of the OpenAI routes, with the extra fields that SGLang and vLLM take. Unknown fields are ignored."""

from typing import Any

import msgspec

from gateway.schemas.unsupported import UNSET, UNSET_OR_EMPTY, UNSET_OR_OFF, Neutral


class StreamOptions(msgspec.Struct, kw_only=True):
    """What a stream tells besides its text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(msgspec.Struct, kw_only=True):
    """What chats and completions have in common. A null means the default."""

    model: str | None = None
    rid: str | None = None
    user: str | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
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
    include_stop_str_in_output: bool | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None

    response_format: dict[str, Any] | None = None
    json_schema: Any = None
    regex: Any = None
    ebnf: Any = None
    structural_tag: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    stop_regex: Any = None
    lora_path: Any = None
    custom_logit_processor: Any = None
    custom_params: Any = None
    return_hidden_states: Any = None
    bad_words: Any = None
    allowed_token_ids: Any = None
    prompt_logprobs: Any = None
    truncate_prompt_tokens: Any = None
    use_beam_search: Any = None
    cache_salt: Any = None
    extra_key: Any = None
    session_id: Any = None
    priority: Any = None
    return_token_ids: Any = None
    return_tokens_as_token_ids: Any = None
    return_prompt_token_ids: Any = None
    return_meta_info: Any = None
    return_cached_tokens_details: Any = None
    thinking_token_budget: Any = None


class ChatRequest(SamplingFields, kw_only=True):
    """`/v1/chat/completions`.

    `tools` are given to the chat template; the model's answer is returned as text, calls in it are not parsed. So
    `tool_choice` may be `auto` or `none`; anything that forces a call is refused.
    """

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    chat_template: Any = None
    documents: Any = None
    input_ids: Any = None
    mm_processor_kwargs: Any = None
    echo: Any = None
    modalities: Any = None
    audio: Any = None
    functions: Any = None
    function_call: Any = None


class CompletionRequest(SamplingFields, kw_only=True):
    """`/v1/completions`. `prompt` is a text, a list of texts, token ids, or a list of those."""

    prompt: str | list[Any]
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None

    suffix: Any = None


UNSUPPORTED: dict[str, Neutral] = {
    "json_schema": UNSET_OR_EMPTY,
    "regex": UNSET_OR_EMPTY,
    "ebnf": UNSET_OR_EMPTY,
    "structural_tag": UNSET_OR_EMPTY,
    "structured_outputs": UNSET_OR_EMPTY,
    "guided_json": UNSET_OR_EMPTY,
    "guided_regex": UNSET_OR_EMPTY,
    "guided_choice": UNSET_OR_EMPTY,
    "guided_grammar": UNSET_OR_EMPTY,
    "stop_regex": UNSET_OR_EMPTY,
    "lora_path": UNSET_OR_EMPTY,
    "custom_logit_processor": UNSET_OR_EMPTY,
    "custom_params": UNSET_OR_EMPTY,
    "return_hidden_states": UNSET_OR_OFF,
    "bad_words": UNSET_OR_EMPTY,
    "allowed_token_ids": UNSET_OR_EMPTY,
    "prompt_logprobs": UNSET,
    "truncate_prompt_tokens": UNSET,
    "use_beam_search": UNSET_OR_OFF,
    "cache_salt": UNSET_OR_EMPTY,
    "extra_key": UNSET_OR_EMPTY,
    "session_id": UNSET_OR_EMPTY,
    "priority": (None, 0),
    "return_token_ids": UNSET_OR_OFF,
    "return_tokens_as_token_ids": UNSET_OR_OFF,
    "return_prompt_token_ids": UNSET_OR_OFF,
    "return_meta_info": UNSET_OR_OFF,
    "return_cached_tokens_details": UNSET_OR_OFF,
    "thinking_token_budget": UNSET,
}
UNSUPPORTED_CHAT: dict[str, Neutral] = UNSUPPORTED | {
    "documents": UNSET_OR_EMPTY,
    "input_ids": UNSET_OR_EMPTY,
    "mm_processor_kwargs": UNSET_OR_EMPTY,
    "echo": UNSET_OR_OFF,
    "modalities": (*UNSET_OR_EMPTY, ["text"]),
    "audio": UNSET_OR_EMPTY,
    "functions": UNSET_OR_EMPTY,
    "function_call": (None, "none", "auto"),
}
UNSUPPORTED_COMPLETION: dict[str, Neutral] = UNSUPPORTED | {"suffix": UNSET_OR_EMPTY}
