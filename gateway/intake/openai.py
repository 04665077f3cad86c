"""`/v1/chat/completions` and `/v1/completions`: from their bodies to calls and the form of their answers."""

import uuid
from typing import Any

from gateway.errors import bad_request
from gateway.inflight.generation import Call, GenerationInput
from gateway.intake.identity import request_ids
from gateway.intake.messages import template_messages
from gateway.intake.prompts import any_prompt, check_num_prompts, is_ids
from gateway.rendering.chat import ChatAnswer
from gateway.rendering.completion import CompletionAnswer
from gateway.rendering.frame import ChunkFrame
from gateway.sampling import build_sampling, check_num_top_logprobs, left_to_model, unchosen_limit
from gateway.schemas.openai import (
    UNSUPPORTED_CHAT,
    UNSUPPORTED_COMPLETION,
    ChatRequest,
    CompletionRequest,
    SamplingFields,
    StreamOptions,
)
from gateway.schemas.unsupported import refuse_unsupported
from gateway.settings import GatewaySettings
from wire.messages import ChatPrompt, Prompt
from wire.sampling import SamplingParams

_DEFAULT_COMPLETION_TOKENS = 16


def take_chat(body: ChatRequest, settings: GatewaySettings) -> ChatAnswer:
    """The answer to be filled; raises a 400 for what is not valid or not supported."""
    refuse_unsupported(body, UNSUPPORTED_CHAT)
    _refuse_other_formats(body)
    if body.chat_template:
        raise bad_request("Request-supplied chat_template is not allowed.", param="chat_template")
    prompt = _chat_prompt(body)
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    sampling = _sampling(body, limit, bool(body.logprobs), _num_top_of_chat(body, settings))
    from_model = left_to_model(body) if settings.sampling_defaults == "model" else ()
    call, frame = _call(body, settings, "chatcmpl", "chat.completion.chunk")
    call.add(GenerationInput(frame.request_id, prompt, sampling, from_model))
    return ChatAnswer(call, frame, bool(body.logprobs), settings.stream_interval)


def take_completion(body: CompletionRequest, settings: GatewaySettings) -> tuple[CompletionAnswer, list[Prompt]]:
    """The answer to be filled, and the prompts, whose text `echo` needs; raises a 400 as `take_chat` does."""
    refuse_unsupported(body, UNSUPPORTED_COMPLETION)
    _refuse_other_formats(body)
    _check_completion(body)
    prompts = _completion_prompts(body)
    num_top = check_num_top_logprobs("logprobs", body.logprobs or 0, settings.max_logprobs)
    limit = _DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    sampling = _sampling(body, limit, body.logprobs is not None, num_top)
    call, frame = _call(body, settings, "cmpl", "text_completion")
    for request_id, prompt in zip(_sub_ids(frame.request_id, len(prompts)), prompts, strict=True):
        call.add(GenerationInput(request_id, prompt, sampling, unchosen_limit(is_default=body.max_tokens is None)))
    answer = CompletionAnswer(call, frame, body.logprobs is not None, settings.stream_interval)
    return answer, prompts


def _sub_ids(request_id: str, num_prompts: int) -> list[str]:
    return request_ids(request_id, num_prompts, is_batch=num_prompts > 1)


def _call(body: SamplingFields, settings: GatewaySettings, prefix: str, kind: str) -> tuple[Call, ChunkFrame]:
    call = Call(body.model or settings.model_name, is_streaming=bool(body.stream))
    given = None if body.rid is None else request_ids(body.rid, 1, is_batch=False)[0]
    request_id = given or f"{prefix}-{uuid.uuid4().hex}"
    options = body.stream_options or StreamOptions()
    return call, ChunkFrame(call, request_id, kind, options, settings.enable_cache_report)


def _sampling(body: SamplingFields, limit: int | None, return_logprob: bool, num_top: int) -> SamplingParams:
    body.no_stop_trim = body.no_stop_trim or body.include_stop_str_in_output
    body.top_k = -1 if body.top_k == 0 else body.top_k  # vLLM's way to turn it off
    return build_sampling(
        body,
        max_new_tokens=limit,
        min_new_tokens=body.min_tokens,
        seed=body.seed,
        return_logprob=return_logprob,
        top_logprobs_num=num_top,
    )


def _refuse_other_formats(body: SamplingFields) -> None:
    kind = (body.response_format or {}).get("type", "text")
    if kind != "text":
        raise bad_request(f"response_format {kind} is not supported.", param="response_format")


def _num_top_of_chat(body: ChatRequest, settings: GatewaySettings) -> int:
    num_top = check_num_top_logprobs("top_logprobs", body.top_logprobs or 0, settings.max_logprobs)
    if num_top and not body.logprobs:
        raise bad_request("top_logprobs needs logprobs to be true.", param="top_logprobs")
    return num_top


def _chat_prompt(body: ChatRequest) -> ChatPrompt:
    if not body.messages:
        raise bad_request("Messages cannot be empty.", param="messages")
    tools = _tools(body)
    continues = bool(body.continue_final_message)
    adds_prompt = not continues if body.add_generation_prompt is None else body.add_generation_prompt
    if continues and adds_prompt:
        raise bad_request("continue_final_message and add_generation_prompt cannot both be true.")
    template_kwargs = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        template_kwargs.setdefault("reasoning_effort", body.reasoning_effort)
    return ChatPrompt(
        messages=template_messages(body.messages),
        tools=tools,
        template_kwargs=template_kwargs,
        add_generation_prompt=adds_prompt,
        continue_final_message=continues,
    )


def _tools(body: ChatRequest) -> list[dict[str, Any]] | None:
    choice = body.tool_choice
    names = [_function_name(tool) for tool in body.tools or []]
    if choice == "required" and not names:
        raise bad_request("Tools cannot be empty if tool choice is set to required.", param="tools")
    if isinstance(choice, dict):
        name = _function_name(choice)
        if name not in names:
            raise bad_request(f"Tool '{name}' not found in tools list.", param="tool_choice")
    if choice not in (None, "none", "auto"):
        raise bad_request("tool_choice that forces a call is not supported.", param="tool_choice")
    return body.tools if body.tools and choice != "none" else None


def _function_name(tool: dict[str, Any]) -> Any:
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else None


def _check_completion(body: CompletionRequest) -> None:
    if body.max_tokens is not None and body.max_tokens < (0 if body.echo else 1):
        raise bad_request("max_tokens must be positive", param="max_tokens")
    if body.echo and body.logprobs is not None:
        raise bad_request("echo with logprobs is not supported.", param="echo")
    if body.best_of is not None and body.best_of > (body.n or 1):
        raise bad_request("best_of above n is not supported.", param="best_of")


def _completion_prompts(body: CompletionRequest) -> list[Prompt]:
    if not body.prompt:
        raise bad_request("Prompt cannot be empty", param="prompt")
    is_batch = isinstance(body.prompt, list) and not is_ids(body.prompt)
    several: list[Any] = body.prompt if is_batch else [body.prompt]  # type: ignore[assignment]  # a batch is a list
    check_num_prompts(several, "prompt")
    return [any_prompt(value, "prompt") for value in several]
