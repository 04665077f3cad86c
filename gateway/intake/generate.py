"""`/generate`: from its body to a call and the form of its answer."""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from gateway.errors import bad_request
from gateway.inflight.generation import Call, GenerationInput
from gateway.intake.identity import request_ids
from gateway.intake.prompts import check_num_prompts, ids_prompt
from gateway.rendering.native import NativeAnswer, NativeForm
from gateway.sampling import build_sampling, check_num_top_logprobs, unchosen_limit
from gateway.schemas.decode import decode_sampling
from gateway.schemas.native import UNSUPPORTED, UNSUPPORTED_SAMPLING, GenerateRequest, NativeSampling
from gateway.schemas.unsupported import refuse_unsupported
from gateway.settings import GatewaySettings
from wire.messages import Prompt, TextPrompt
from wire.sampling import SamplingParams

T = TypeVar("T")

_DEFAULT_NEW_TOKENS = 128


def take_generate(body: GenerateRequest, settings: GatewaySettings) -> NativeAnswer:
    """The answer to be filled; raises a 400 for what is not valid or not supported."""
    refuse_unsupported(body, UNSUPPORTED)
    prompts, is_batch = _prompts(body)
    given = _sampling(body, len(prompts))
    samplings = [_build(body, one, index, len(prompts), settings) for index, one in enumerate(given)]
    ids = request_ids(body.rid, len(prompts), is_batch=is_batch)
    call = Call(settings.model_name, is_streaming=bool(body.stream))
    for request_id, prompt, sampling, one in zip(ids, prompts, samplings, given, strict=True):
        unchosen = unchosen_limit(is_default=one.max_new_tokens is msgspec.UNSET)
        call.add(GenerationInput(request_id, prompt, sampling, unchosen))
    form = NativeForm(
        is_list=is_batch or samplings[0].n > 1,
        is_incremental=settings.incremental_streaming_output,
        stream_interval=_stream_interval(given[0], settings),
        with_text_in_logprobs=bool(body.return_text_in_logprobs),
    )
    return NativeAnswer(call, form)


def _prompts(body: GenerateRequest) -> tuple[list[Prompt], bool]:
    if body.text is not None:
        texts = [body.text] if isinstance(body.text, str) else body.text
        check_num_prompts(texts, "text")
        return [TextPrompt(text) for text in texts], isinstance(body.text, list)
    if body.input_ids is None:
        raise bad_request("Either text, input_ids or input_embeds should be provided.")
    is_batch = bool(body.input_ids) and isinstance(body.input_ids[0], list)
    several = body.input_ids if is_batch else [body.input_ids]
    check_num_prompts(several, "input_ids")
    return [ids_prompt(ids, "input_ids") for ids in several], is_batch


def _sampling(body: GenerateRequest, num_prompts: int) -> list[NativeSampling]:
    if isinstance(body.sampling_params, list):
        given = [decode_sampling(one) for one in _per_prompt("sampling_params", body.sampling_params, num_prompts)]
    else:
        given = [decode_sampling(body.sampling_params or {})] * num_prompts
    for params in given:
        refuse_unsupported(params, UNSUPPORTED_SAMPLING)
    if len({params.n or 1 for params in given}) > 1:
        raise bad_request("The parallel_sample_num should be the same for all samples in sample params.")
    return given


def _build(
    body: GenerateRequest, given: NativeSampling, index: int, num_prompts: int, settings: GatewaySettings
) -> SamplingParams:
    return_logprob = _one_of("return_logprob", body.return_logprob, index, num_prompts, False)
    start = _one_of("logprob_start_len", body.logprob_start_len, index, num_prompts, -1)
    if return_logprob and start >= 0:
        message = f"logprob_start_len must be -1, since only output tokens have logprobs; got {start}."
        raise bad_request(message, param="logprob_start_len")
    num_top = _one_of("top_logprobs_num", body.top_logprobs_num, index, num_prompts, 0)
    return build_sampling(
        given,
        max_new_tokens=_DEFAULT_NEW_TOKENS if given.max_new_tokens is msgspec.UNSET else given.max_new_tokens,
        min_new_tokens=given.min_new_tokens,
        seed=given.sampling_seed,
        return_logprob=return_logprob,
        top_logprobs_num=check_num_top_logprobs("top_logprobs_num", num_top, settings.max_logprobs),
    )


def _one_of(name: str, given: T | list[T] | None, index: int, num_prompts: int, default: T) -> T:
    if given is None:
        return default
    if isinstance(given, list):
        several: Sequence[T] = _per_prompt(name, given, num_prompts)
        return several[index]
    return given


def _per_prompt(name: str, given: Sequence[T], num_prompts: int) -> Sequence[T]:
    if len(given) != num_prompts:
        raise bad_request(f"{name} must have one entry per prompt: {num_prompts}, got {len(given)}.", param=name)
    return given


def _stream_interval(given: NativeSampling, settings: GatewaySettings) -> int:
    interval = settings.stream_interval if given.stream_interval is None else given.stream_interval
    if interval < 1:
        raise bad_request(f"stream_interval must be at least 1, got {interval}.", param="stream_interval")
    return interval
