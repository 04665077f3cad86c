"""OpenAI's routes."""

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Response

from gateway.errors import RequestError
from gateway.http.context import Gateway, HttpRequest
from gateway.http.openapi import EVENTS, GENERATION_ERRORS, JSON
from gateway.intake.openai import take_chat, take_completion
from gateway.schemas.decode import decode_openai
from gateway.schemas.openai import ChatRequest, CompletionRequest
from wire.messages import Detokenize, Prompt, Stage, TextPrompt, TokensPrompt

_NS_PER_S = 10**9


@post("/v1/chat/completions", status_code=200, body=ChatRequest, answers=(JSON, EVENTS), errors=GENERATION_ERRORS)
async def chat_completions(request: HttpRequest, gateway: NamedDependency[Gateway]) -> Response[None]:
    """Answers a chat, as a whole or as a stream.

    `tools` are shown to the model through its chat template; calls in its answer are returned as text.
    """
    await gateway.admission.check()
    body = decode_openai(await gateway.read_body(request), request.headers.get("content-type", ""), ChatRequest)
    answer = take_chat(body, gateway.settings)
    await gateway.admission.check(answer.call)
    return gateway.respond(request, answer.call, answer)


@post("/v1/completions", status_code=200, body=CompletionRequest, answers=(JSON, EVENTS), errors=GENERATION_ERRORS)
async def completions(request: HttpRequest, gateway: NamedDependency[Gateway]) -> Response[None]:
    """Continues one prompt or several, as a whole or as a stream."""
    await gateway.admission.check()
    body = decode_openai(await gateway.read_body(request), request.headers.get("content-type", ""), CompletionRequest)
    answer, prompts = take_completion(body, gateway.settings)
    await gateway.admission.check(answer.call)
    if body.echo:
        answer.echoes = await _texts(gateway, prompts)
    return gateway.respond(request, answer.call, answer)


@get("/v1/models")
async def models(gateway: NamedDependency[Gateway]) -> dict[str, object]:
    """The served model."""
    return {"object": "list", "data": [_model(gateway)]}


@get("/v1/models/{model_id:path}", errors=(404,))
async def model(gateway: NamedDependency[Gateway], model_id: FromPath[str]) -> dict[str, object]:
    """One model by its id, which may hold slashes."""
    name = model_id.removeprefix("/")
    if name != gateway.settings.model_name:
        message = f"The model '{name}' does not exist"
        raise RequestError(404, message, param="model", code="model_not_found")
    return _model(gateway)


def _model(gateway: Gateway) -> dict[str, object]:
    name = gateway.settings.model_name
    workers = gateway.asking.instances(Stage.WORKER)
    lengths = [member.heartbeat.context_length for member in workers if member.heartbeat.context_length]
    return {
        "id": name,
        "object": "model",
        "created": gateway.node.instance.started_ns // _NS_PER_S,
        "owned_by": "millrace",
        "root": name,
        "parent": None,
        "max_model_len": min(lengths, default=None),
    }


async def _texts(gateway: Gateway, prompts: list[Prompt]) -> list[str]:
    """The prompts as texts; those of ids by asking a tokenizer."""
    columns = tuple(prompt.token_ids for prompt in prompts if isinstance(prompt, TokensPrompt))
    reply = await gateway.asking.detokenize(Detokenize(token_ids=columns)) if columns else None
    texts = iter(reply.texts if reply else ())
    return [prompt.text if isinstance(prompt, TextPrompt) else next(texts) for prompt in prompts]
