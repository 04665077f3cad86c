"""What operators and balancers ask: health, readiness, descriptions, metrics, keys, limits."""

import asyncio
from typing import Any

import httpx
import msgspec
import pytest

from gateway.schemas.errors import ErrorBody
from tests.unit.gateway.conftest import MakeScene, Scene
from tests.unit.gateway.scripted import accept_only, generate

ASK: dict[str, Any] = {"text": "x", "sampling_params": {"max_new_tokens": 2}}


async def test_it_says_that_it_runs(scene: Scene) -> None:
    assert (await scene.http.get("/")).text == "Millrace is running"
    assert (await scene.http.head("/")).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/health_generate"])
async def test_a_complete_pipeline_is_healthy(scene: Scene, path: str) -> None:
    assert (await scene.http.get(path)).status_code == 200


async def test_only_health_generate_generates(scene: Scene) -> None:
    await scene.http.get("/health")
    assert scene.pipeline.jobs == []
    await scene.http.get("/health_generate")
    assert scene.pipeline.jobs[0].sampling.max_new_tokens == 1


async def test_a_missing_stage_is_a_503_at_once_that_names_it(scene: Scene) -> None:
    await scene.lose(scene.pipeline.worker)

    for path in ("/health", "/ready", "/health_generate"):
        assert (await scene.http.get(path)).status_code == 503
    answer = await scene.post("/generate", ASK)
    assert answer.status_code == 503
    assert answer.json()["message"] == "No worker is ready. Try again later."


async def test_while_every_worker_hangs_in_a_step_nobody_is_let_in(scene: Scene) -> None:
    await scene.hang(scene.pipeline.worker)

    health = await scene.http.get("/health")
    assert health.status_code == 503
    assert "Every worker hangs in a step: for 61 s, the limit is 60 s." in health.text
    assert (await scene.http.get("/ready")).status_code == 503
    assert (await scene.post("/generate", ASK)).status_code == 503
    assert scene.pipeline.jobs == []


async def test_a_request_that_outlives_the_drain_timeout_gets_a_503(make_scene: MakeScene) -> None:
    scene = await make_scene(common={"drain_timeout": 0.1})
    scene.pipeline.script = accept_only
    running = asyncio.create_task(scene.post("/generate", ASK))
    await scene.pipeline.job_arrived.get()

    await scene.service.drain()

    assert (await running).status_code == 503


async def test_a_full_queue_is_a_429_with_retry_after(make_scene: MakeScene) -> None:
    scene = await make_scene(max_queued_requests=2, worker_beat={"num_waiting": 2})

    answer = await scene.post("/v1/completions", {"prompt": "x"})

    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    message = "The request queue is full. 2 sequences wait, the limit is 2."
    assert answer.json()["message"] == message


async def test_a_call_needs_room_for_all_its_sequences(make_scene: MakeScene) -> None:
    scene = await make_scene(max_queued_requests=6, worker_beat={"num_waiting": 2})
    two_prompts = {"prompt": ["x", "y"], "max_tokens": 1}

    assert (await scene.post("/v1/completions", two_prompts | {"n": 2})).status_code == 200
    answer = await scene.post("/v1/completions", two_prompts | {"n": 3})

    assert answer.status_code == 429
    message = "The request queue is full. 2 sequences wait, the call asks for 6, the limit is 6."
    assert answer.json()["message"] == message


async def test_a_batch_that_no_queue_can_take_is_a_400_with_both_numbers(make_scene: MakeScene) -> None:
    scene = await make_scene(max_queued_requests=5)

    answer = await scene.post("/generate", {"text": ["x", "y", "z"], "sampling_params": {"n": 2}})

    assert answer.status_code == 400
    assert answer.json()["message"] == "The call asks for 6 sequences (prompts times n), at most 5 may wait."
    assert scene.pipeline.jobs == []


@pytest.mark.parametrize(("num_waiting", "status"), [(0, 200), (1, 429)])
async def test_a_prompt_of_more_choices_than_may_wait_needs_an_empty_queue(
    make_scene: MakeScene, num_waiting: int, status: int
) -> None:
    scene = await make_scene(max_queued_requests=2, worker_beat={"num_waiting": num_waiting})

    assert (await scene.post("/v1/completions", {"prompt": "x", "n": 3, "max_tokens": 1})).status_code == status


async def test_health_generate_waits_in_no_queue_that_is_full(make_scene: MakeScene) -> None:
    scene = await make_scene(max_queued_requests=2, worker_beat={"num_waiting": 2})

    assert (await scene.http.get("/health_generate")).status_code == 429
    assert (await scene.http.get("/health")).status_code == 200
    assert scene.pipeline.jobs == []


@pytest.mark.parametrize(("backlog_s", "retry_after"), [(0.2, "1"), (7.3, "8"), (500.0, "60"), (float("nan"), "1")])
async def test_who_is_sent_away_comes_back_when_the_worker_says(
    make_scene: MakeScene, backlog_s: float, retry_after: str
) -> None:
    scene = await make_scene(max_queued_requests=2, worker_beat={"num_waiting": 2, "backlog_s": backlog_s})

    assert (await scene.post("/generate", ASK)).headers["retry-after"] == retry_after


async def test_own_requests_on_their_way_count_as_waiting(make_scene: MakeScene) -> None:
    scene = await make_scene(max_queued_requests=3)
    scene.pipeline.script = accept_only
    three = {"text": "x", "sampling_params": {"max_new_tokens": 2, "n": 3}}
    waiting = asyncio.create_task(scene.post("/generate", three))
    job = await scene.pipeline.job_arrived.get()

    assert (await scene.post("/generate", ASK)).status_code == 429
    await generate(scene.pipeline, job)
    assert (await waiting).status_code == 200


async def test_a_body_over_the_limit_is_a_413_with_both_numbers(make_scene: MakeScene) -> None:
    scene = await make_scene(max_request_bytes=2000)

    async def chunks() -> Any:
        for _ in range(30):
            yield b"x" * 100

    announced = await scene.http.post("/generate", content=b"x" * 3000)
    unannounced = await scene.http.post("/generate", content=chunks())

    assert announced.status_code == unannounced.status_code == 413
    assert "3000" in announced.json()["message"]
    assert "2000" in announced.json()["message"]
    assert "2000" in unannounced.json()["message"]


async def test_a_job_over_the_brokers_limit_is_a_413_with_both_numbers(scene: Scene) -> None:
    limit = scene.node.data.max_payload

    answer = await scene.post("/generate", {"text": "x" * (limit + 1)})

    assert answer.status_code == 413
    assert str(limit) in answer.json()["message"]
    assert scene.pipeline.jobs == []


async def test_the_api_key_is_asked_for_except_by_probes(make_scene: MakeScene) -> None:
    scene = await make_scene(api_key="secret")

    refused = await scene.post("/generate", ASK)
    assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
    assert (await scene.post("/generate", ASK, headers={"Authorization": "Bearer wrong"})).status_code == 401
    assert (await scene.post("/generate", ASK, headers={"Authorization": "Bearer secret"})).status_code == 200
    for path in ("/health", "/ready", "/metrics"):
        assert (await scene.http.get(path)).status_code == 200
    for path in ("/flush_cache", "/"):  # whose answers are plain text
        refused = await scene.http.get(path)
        assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
    assert (await scene.openai.models.list()).data


async def test_any_origin_may_call(scene: Scene) -> None:
    headers = {"Origin": "http://elsewhere", "Access-Control-Request-Method": "POST"}
    preflight = await scene.http.options("/v1/chat/completions", headers=headers)
    assert preflight.headers["access-control-allow-origin"] == "*"

    answer = await scene.post("/generate", ASK | {"stream": True}, headers={"Origin": "http://elsewhere"})
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", ["/model_info", "/get_model_info"])
async def test_the_model_is_described(scene: Scene, path: str) -> None:
    info = (await scene.http.get(path)).json()

    assert info["served_model_name"] == scene.node.instance.served_model_name
    assert info["model_type"] == "scripted"
    assert info["is_generation"] is True


@pytest.mark.parametrize("path", ["/server_info", "/get_server_info"])
async def test_the_server_is_described_without_secrets(make_scene: MakeScene, path: str) -> None:
    scene = await make_scene(api_key="secret")
    answer = await scene.http.get(path, headers={"Authorization": "Bearer secret"})
    info = answer.json()

    assert info["device"] == "none"
    assert info["tokenizer_path"] == "resolved"
    (state,) = info["internal_states"]
    assert state["step"] == 1
    assert state["effective_max_running_requests_per_dp"] == 7
    assert state["memory_usage"] == {"token_capacity": 900}
    assert {instance["stage"] for instance in info["instances"]} >= {"worker", "tokenizer", "detokenizer", "gateway"}
    assert "secret" not in answer.text


async def test_metrics_count_what_happened(scene: Scene) -> None:
    await scene.post("/generate", ASK)
    await scene.http.get("/nothing")
    text = (await scene.http.get("/metrics")).text

    model = scene.node.instance.served_model_name
    assert f'sglang:generation_tokens_total{{is_streaming="False",model_name="{model}"}} 2.0' in text
    assert f'sglang:prompt_tokens_total{{is_streaming="False",model_name="{model}"}} 1.0' in text
    assert f'sglang:num_running_reqs{{model_name="{model}"}}' in text
    assert f'sglang:inter_token_latency_seconds_count{{model_name="{model}"}} 1.0' in text
    assert 'sglang:http_responses_total{endpoint="/generate",method="POST",status_code="200"} 1.0' in text
    assert 'millrace_gateway_attempts_total{cause="new",kind="first"} 1.0' in text


async def test_metrics_can_be_off(make_scene: MakeScene) -> None:
    scene = await make_scene(enable_metrics=False)

    assert (await scene.http.get("/metrics")).status_code == 404


async def test_the_api_is_documented_with_its_bodies(scene: Scene) -> None:
    document = (await scene.http.get("/openapi.json")).json()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/ChatRequest"}
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert "messages" in fields
    assert fields["regex"]["enum"] == [None, "", [], {}]

    page = await scene.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "/v1/chat/completions" in page.text
    assert "http://" not in page.text


async def test_unknown_paths_and_methods_get_the_common_error_body(scene: Scene) -> None:
    for answer, status in ((await scene.http.get("/nothing"), 404), (await scene.http.patch("/generate"), 405)):
        assert answer.status_code == status
        assert answer.json()["error"]["message"] == answer.json()["message"]
    assert {"POST", "PUT"} <= set(answer.headers["allow"].split(", "))


async def test_every_error_that_a_route_gives_is_documented(scene: Scene) -> None:
    paths = (await scene.http.get("/openapi.json")).json()["paths"]
    calls = [
        (await scene.post("/generate", {}), paths["/generate"]["post"]),
        (await scene.post("/generate", {"text": 5}), paths["/generate"]["post"]),
        (await scene.post("/v1/completions", {}), paths["/v1/completions"]["post"]),
        (await scene.post("/detokenize", {"tokens": [-1]}), paths["/detokenize"]["post"]),
        (await scene.http.get("/flush_cache?timeout=-1"), paths["/flush_cache"]["get"]),
        (await scene.http.get("/v1/models/no/such"), paths["/v1/models/{model_id}"]["get"]),
    ]

    for answer, operation in calls:
        schema = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ErrorBody"}
        assert msgspec.json.decode(answer.content, type=ErrorBody).code == answer.status_code


async def test_connections_end_when_the_service_does(make_scene: MakeScene) -> None:
    scene = await make_scene()
    assert (await scene.http.get("/health")).status_code == 200

    await scene.service.close()

    with pytest.raises(httpx.ConnectError):
        await scene.http.get("/health")


async def test_a_full_queue_is_told_before_the_body_has_come(make_scene: MakeScene) -> None:
    scene = await make_scene(max_queued_requests=2, worker_beat={"num_waiting": 2})
    reader, writer = await asyncio.open_connection(*scene.service.url.removeprefix("http://").split(":"))
    writer.write(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
    async with asyncio.timeout(10):
        assert await reader.readline() == b"HTTP/1.1 429 Too Many Requests\r\n"
    writer.close()


async def test_a_queue_may_be_without_end(make_scene: MakeScene) -> None:
    scene = await make_scene(max_queued_requests=-1, worker_beat={"num_waiting": 100_000})
    assert (await scene.post("/generate", ASK)).status_code == 200
