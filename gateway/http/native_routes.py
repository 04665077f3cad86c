"""SGLang's routes that generate, tokenize, abort and flush."""

from typing import Annotated

import msgspec
from litestar import post, route
from litestar.di import NamedDependency
from litestar.enums import MediaType
from litestar.response import Response
from msgspec import Meta

from gateway.errors import bad_request
from gateway.http.context import Gateway, HttpRequest
from gateway.http.openapi import BODY_ERRORS, EVENTS, GENERATION_ERRORS, JSON
from gateway.intake.generate import take_generate
from gateway.intake.messages import template_messages
from gateway.schemas.decode import decode_json, decode_native
from gateway.schemas.native import AbortRequest, DetokenizeRequest, GenerateRequest, TokenizeRequest
from wire.columns import pack_u32, unpack_u32
from wire.messages import ChatPrompt, Detokenize, Prompt, TextPrompt, Tokenize, TokensPrompt

_LONGEST_FLUSH_S = 600
_FLUSH_TIMEOUT = {
    "description": "Seconds to wait until no request runs",
    "schema": {"type": "number", "minimum": 0, "maximum": _LONGEST_FLUSH_S, "default": 0},
}


@route(
    "/generate",
    http_method=["POST", "PUT"],
    status_code=200,
    body=GenerateRequest,
    answers=(JSON, EVENTS),
    errors=GENERATION_ERRORS,
)
async def generate(request: HttpRequest, gateway: NamedDependency[Gateway]) -> Response[None]:
    """Continues one prompt or several."""
    await gateway.admission.check()  # before any work, and again afterwards, since the body may have taken its time
    body = decode_native(await gateway.read_body(request), GenerateRequest)
    answer = take_generate(body, gateway.settings)
    await gateway.admission.check(answer.call)
    if body.return_prompt_token_ids:
        answer.prompt_ids = await _prompt_ids(gateway, [one.input.prompt for one in answer.call.generations])
    return gateway.respond(request, answer.call, answer)


@post("/abort_request", status_code=200, media_type=MediaType.TEXT, body=AbortRequest, errors=BODY_ERRORS)
async def abort_request(request: HttpRequest, gateway: NamedDependency[Gateway]) -> str:
    """Ends requests whose id begins with `rid`, or all, with the finish reason `abort`."""
    body = decode_json(await gateway.read_body(request), AbortRequest)
    if body.abort_all:
        await gateway.pipeline.abort("")
    elif body.rid:
        await gateway.pipeline.abort(body.rid)
    else:
        raise bad_request("Either rid or abort_all should be provided.")
    return ""


@route(
    "/flush_cache",
    http_method=["GET", "POST"],
    status_code=200,
    media_type=MediaType.TEXT,
    query={"timeout": _FLUSH_TIMEOUT},
    errors=(400, 503),
)
async def flush_cache(request: HttpRequest, gateway: NamedDependency[Gateway]) -> Response[str]:
    """Drops every worker's prefix cache; refused while a worker is busy for longer than `timeout` seconds."""
    timeout_s = _seconds(request.query_params.get("timeout", "0"))
    replies = await gateway.asking.flush_caches(timeout_s)
    refused = [reply.message for reply in replies if not reply.is_flushed]
    if refused:
        return Response(f"Cache not flushed: {'; '.join(refused)}\n", status_code=400, media_type=MediaType.TEXT)
    return Response("Cache flushed.\n", media_type=MediaType.TEXT)


@post(["/tokenize", "/v1/tokenize"], status_code=200, body=TokenizeRequest, errors=BODY_ERRORS)
async def tokenize(request: HttpRequest, gateway: NamedDependency[Gateway]) -> dict[str, object]:
    """Ids of a prompt, of several, or of a chat."""
    body = decode_json(await gateway.read_body(request), TokenizeRequest)
    prompts = _prompts(body)
    add_special_tokens = body.add_special_tokens is not False
    reply = await gateway.asking.tokenize(Tokenize(prompts=prompts, add_special_tokens=add_special_tokens))
    tokens = [unpack_u32(column).tolist() for column in reply.token_ids]
    counts = [len(ids) for ids in tokens]
    is_list = isinstance(body.prompt, list)
    return {
        "tokens": tokens if is_list else tokens[0],
        "count": counts if is_list else counts[0],
        "max_model_len": reply.context_length,
    }


@post(["/detokenize", "/v1/detokenize"], status_code=200, body=DetokenizeRequest, errors=BODY_ERRORS)
async def detokenize(request: HttpRequest, gateway: NamedDependency[Gateway]) -> dict[str, object]:
    """The text of ids, or of several lists of them."""
    body = decode_json(await gateway.read_body(request), DetokenizeRequest)
    several = [one for one in body.tokens if isinstance(one, list)]
    single = [one for one in body.tokens if isinstance(one, int)]
    if several and single:
        raise bad_request("tokens must be ids, or lists of ids.", param="tokens")
    columns = [pack_u32(ids) for ids in several or [single]]
    skip = body.skip_special_tokens is not False
    reply = await gateway.asking.detokenize(Detokenize(token_ids=tuple(columns), skip_special_tokens=skip))
    return {"text": list(reply.texts) if several else reply.texts[0]}


async def _prompt_ids(gateway: Gateway, prompts: list[Prompt]) -> list[list[int]]:
    """The ids of prompts; those of texts by asking a tokenizer."""
    texts = tuple(prompt for prompt in prompts if not isinstance(prompt, TokensPrompt))
    reply = await gateway.asking.tokenize(Tokenize(prompts=texts)) if texts else None
    columns = iter(reply.token_ids if reply else ())
    return [
        unpack_u32(prompt.token_ids if isinstance(prompt, TokensPrompt) else next(columns)).tolist()
        for prompt in prompts
    ]


def _seconds(given: str) -> float:
    try:
        seconds: float = msgspec.convert(given, Annotated[float, Meta(ge=0, le=_LONGEST_FLUSH_S)], strict=False)
    except msgspec.ValidationError as error:
        raise bad_request(f"timeout: {error}, got {given}.", param="timeout") from error
    return seconds


def _prompts(body: TokenizeRequest) -> tuple[Prompt, ...]:
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("Exactly one of prompt and messages should be provided.")
    if body.messages is not None:
        continues = bool(body.continue_final_message)
        chat = ChatPrompt(
            messages=template_messages(body.messages),
            tools=None if body.tool_choice == "none" else body.tools,
            template_kwargs=body.chat_template_kwargs or {},
            add_generation_prompt=not continues if body.add_generation_prompt is None else body.add_generation_prompt,
            continue_final_message=continues,
        )
        return (chat,)
    texts = body.prompt if isinstance(body.prompt, list) else [body.prompt or ""]
    return tuple(TextPrompt(text) for text in texts)
