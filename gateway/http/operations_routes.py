"""Routes for operators and balancers: health, readiness, what runs here, metrics."""

import time
from importlib.metadata import version

import msgspec
from litestar import get, route
from litestar.di import NamedDependency
from litestar.enums import MediaType
from litestar.response import Response
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from gateway.errors import RequestError
from gateway.http.context import Gateway, HttpRequest
from gateway.http.openapi import JSON
from gateway.intake.generate import take_generate
from gateway.schemas.native import GenerateRequest
from wire.messages import Description, Stage
from wire.settings import public_values


@route("/", http_method=["GET", "HEAD"], status_code=200, media_type=MediaType.TEXT)
async def root() -> str:
    """Says that this is it."""
    return "Millrace is running"


@get("/health", media_type=MediaType.TEXT, errors=(503,), needs_key=False)
async def health(gateway: NamedDependency[Gateway]) -> str:
    """200 while every stage has a ready instance and some worker's step is not hung; runs nothing."""
    workers = gateway.asking.instances(Stage.WORKER)
    if workers and all(worker.is_hung for worker in workers):
        beat = min((worker.heartbeat for worker in workers), key=lambda beat: beat.step_age_s)
        message = f"Every worker hangs in a step: for {beat.step_age_s:.0f} s, the limit is {beat.step_timeout_s:g} s."
        raise RequestError(503, message, code="unavailable")
    gateway.admission.check_ready()
    return ""


@get("/ready", media_type=MediaType.TEXT, errors=(503,), needs_key=False)
async def ready(gateway: NamedDependency[Gateway]) -> str:
    """200 while new requests are taken."""
    gateway.admission.check_ready()
    return ""


@get("/health_generate", answers=(JSON,), errors=(429, 500, 503), needs_key=False)
async def health_generate(request: HttpRequest, gateway: NamedDependency[Gateway]) -> Response[None]:
    """Generates one token through every stage."""
    body = GenerateRequest(text="health", sampling_params={"max_new_tokens": 1, "temperature": 0})
    answer = take_generate(body, gateway.settings)
    gateway.admission.check_ready()
    await gateway.admission.check(answer.call)  # it generates like any other, and needs no key
    return gateway.respond(request, answer.call, answer)


@get(["/model_info", "/get_model_info"])
async def model_info(gateway: NamedDependency[Gateway]) -> dict[str, object]:
    """The served model, as a tokenizer describes it."""
    described = await gateway.asking.describe_stage(Stage.TOKENIZER)
    model = described[0].model if described else {}
    defaults: dict[str, object] = {
        "model_path": gateway.settings.model_path,
        "tokenizer_path": gateway.settings.model_path,
        "served_model_name": gateway.settings.model_name,
        "is_generation": True,
        "preferred_sampling_params": None,
        "weight_version": "default",
        "load_format": "safetensors",
        "reasoning_parser": None,
        "tool_call_parser": None,
        "disaggregation_mode": "null",
        "has_image_understanding": False,
        "has_audio_understanding": False,
        "model_type": None,
        "architectures": None,
    }
    return defaults | model


@get(["/server_info", "/get_server_info"])
async def server_info(gateway: NamedDependency[Gateway]) -> dict[str, object]:
    """What every stage runs with, flat; per worker its counters in `internal_states`."""
    ask = gateway.asking.describe_stage
    detokenizers, tokenizers, workers = [
        await ask(stage) for stage in (Stage.DETOKENIZER, Stage.TOKENIZER, Stage.WORKER)
    ]
    merged = public_values(gateway.settings)
    for description in (*detokenizers, *tokenizers, *workers):
        for source in (description.settings, description.model):  # what was resolved wins over what was asked for
            merged |= {name: value for name, value in source.items() if value is not None or name not in merged}
    merged |= {
        "served_model_name": gateway.settings.model_name,
        "internal_states": [_internal_state(worker) for worker in workers],
        "instances": _instances(gateway),
        "startup_time": gateway.node.instance.started_ns / 1e9,
        "uptime_s": time.time() - gateway.node.instance.started_ns / 1e9,
        "version": version("millrace"),
    }
    return merged


def _internal_state(worker: Description) -> dict[str, object]:
    """A worker's counters, and its capacity under the names by which SGLang's load generators size their load."""
    capacity = {"token_capacity": worker.stats.get("max_total_num_tokens")}
    limit = worker.settings.get("max_running_requests")
    return worker.stats | {"effective_max_running_requests_per_dp": limit, "memory_usage": capacity}


def _instances(gateway: Gateway) -> list[dict[str, object]]:
    beats = (member.heartbeat for stage in Stage for member in gateway.node.members.of_stage(stage))
    return [msgspec.structs.asdict(beat) for beat in beats]


@get("/metrics", answers=("text/plain",), errors=(404,), needs_key=False)
async def metrics(gateway: NamedDependency[Gateway]) -> Response[bytes]:
    """Prometheus."""
    if not gateway.settings.enable_metrics:
        raise RequestError(404, "Metrics are off: start with --enable-metrics.")
    return Response(generate_latest(gateway.node.registry), headers={"content-type": CONTENT_TYPE_LATEST})
