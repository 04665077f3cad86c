"""What a client sees when something dies under its request: a pause, and nothing else."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from tests.unit.gateway.conftest import MakeScene, Scene
from tests.unit.gateway.scripted import (
    FINGERPRINT,
    ScriptedPipeline,
    ScriptedStage,
    answer_all,
    begin,
    ignore,
    text_of,
)
from wire.columns import pack_u32, pack_u64, unpack_u32
from wire.messages import (
    ErrorCode,
    Failed,
    FinishReason,
    ReattachPoint,
    Released,
    RequestState,
    SequenceStart,
    Stage,
    TokenizeJob,
    TokensPrompt,
)

NUM_TOKENS = 6
ASK: dict[str, Any] = {"text": "hey", "sampling_params": {"max_new_tokens": NUM_TOKENS}}
Trouble = Callable[[ScriptedPipeline, TokenizeJob], Awaitable[None]]


async def skip_a_token(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
    """A batch is lost on the way."""
    await pipeline.send(job, [(0, 3, 1)])


async def fail_retryably(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
    """The worker could not do it."""
    sender = pipeline.worker.node.instance.peer
    failed = Failed(key=job.key, sender=sender, code=ErrorCode.INTERNAL, message="oops", is_retryable=True)
    await pipeline.tell(job, failed)


async def release(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
    """The worker drains and gives it back."""
    released = Released(pipeline.worker.node.instance.peer, pack_u64([job.key]), "draining")
    await pipeline.tell(job, released)


async def forget(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
    """The worker's next reports do not name the request."""
    for _ in range(4):
        await pipeline.worker.report(job.gateway.instance_id, 0, RequestState.RUNNING, 0)
        await asyncio.sleep(0.4)  # a worker reports about twice a second


async def get_ahead(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
    """The worker has sampled more than ever arrives."""
    for _ in range(4):
        await pipeline.worker.report(job.gateway.instance_id, job.key, RequestState.RUNNING, 4)
        await asyncio.sleep(0.4)  # a worker reports about twice a second


async def fall_silent(_: ScriptedPipeline, __: TokenizeJob) -> None:
    """The worker never says anything again."""


@pytest.mark.parametrize("trouble", [skip_a_token, fail_retryably, release, forget, get_ahead, fall_silent])
async def test_a_stream_goes_on_where_it_was(scene: Scene, trouble: Trouble) -> None:
    is_repaired_cheaply_first = trouble in (skip_a_token, forget, get_ahead, fall_silent)
    scene.pipeline.script = begin
    async with scene.http.stream("POST", "/generate", json=ASK | {"stream": True}) as response:
        first = await scene.pipeline.job_arrived.get()
        scene.pipeline.script = answer_all
        await trouble(scene.pipeline, first)
        events = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    second = scene.pipeline.jobs[1]

    assert events[-1] == "[DONE]"
    answer = json.loads(events[-2])
    assert answer["text"] == text_of(NUM_TOKENS)
    assert answer["output_ids"] == list(range(1000, 1000 + NUM_TOKENS))
    assert second.is_resume
    assert second.attempt == (3 if is_repaired_cheaply_first else 2)
    assert second.key != first.key
    assert second.prompt == TokensPrompt(pack_u32(map(ord, "hey")))
    assert second.model_fingerprint == FINGERPRINT
    assert second.sequences == (SequenceStart(0, pack_u32([1000]), len(text_of(1))),)
    aborted = {(await scene.pipeline.worker.aborts.get()).key for _ in range(2 if is_repaired_cheaply_first else 1)}
    assert first.key in aborted


async def lose_detokenizer(pipeline: ScriptedPipeline, _: TokenizeJob) -> None:
    """The detokenizer goes, and there is another."""
    await pipeline.detokenizer.leave()


@pytest.mark.parametrize("trouble", [skip_a_token, forget, get_ahead, fall_silent, lose_detokenizer])
async def test_a_worker_that_lives_goes_on_with_what_it_has(scene: Scene, trouble: Trouble, nats_url: str) -> None:
    scene.pipeline.script, scene.pipeline.worker.holds_sequences = begin, True
    asking = asyncio.create_task(scene.post("/generate", ASK))
    first = await scene.pipeline.job_arrived.get()
    other = await ScriptedStage.join(nats_url, Stage.DETOKENIZER, scene.node.instance.served_model_name)
    await trouble(scene.pipeline, first)
    message = await asyncio.wait_for(scene.pipeline.worker.reattachments.get(), 10)
    assert message.old_key == first.key
    assert message.points == (ReattachPoint(0, 1, len(text_of(1))),)
    assert (message.sender, message.attempt) == (scene.node.instance.peer, 2)
    if trouble is lose_detokenizer:
        assert message.detokenizer == other.node.instance.peer
        scene.pipeline.detokenizer = other
    again = msgspec.structs.replace(first, key=message.new_key)
    await scene.pipeline.send(first, [(0, 1, 1)])
    await scene.pipeline.send(again, [(0, 1, NUM_TOKENS - 1)], finish=FinishReason.LENGTH)

    answer = (await asking).json()
    assert answer["text"] == text_of(NUM_TOKENS)
    assert answer["output_ids"] == list(range(1000, 1000 + NUM_TOKENS))
    assert len(scene.pipeline.jobs) == 1
    assert scene.pipeline.worker.aborts.empty()
    metrics = (await scene.http.get("/metrics")).text
    assert 'kind="reattach"} 1.0' in metrics
    assert "millrace_gateway_fenced_rows_total 1.0" in metrics
    await other.leave()


async def test_without_recovery_what_is_known_to_be_lost_fails(make_scene: MakeScene) -> None:
    scene = await make_scene(disable_recovery=True)
    scene.pipeline.script = begin
    asking = asyncio.create_task(scene.post("/generate", ASK))
    await release(scene.pipeline, await scene.pipeline.job_arrived.get())
    answer = await asking
    assert answer.status_code == 503
    assert "released" in answer.json()["error"]["message"]
    assert len(scene.pipeline.jobs) == 1


async def test_a_client_that_leaves_while_its_worker_goes_on_ends_that_too(scene: Scene) -> None:
    scene.pipeline.script, scene.pipeline.worker.holds_sequences = begin, True
    async with scene.http.stream("POST", "/generate", json=ASK | {"stream": True}):
        first = await scene.pipeline.job_arrived.get()
        await skip_a_token(scene.pipeline, first)
        message = await asyncio.wait_for(scene.pipeline.worker.reattachments.get(), 10)
    aborted = [(await asyncio.wait_for(scene.pipeline.worker.aborts.get(), 5)).key for _ in range(2)]
    assert sorted(aborted) == sorted([first.key, message.new_key])


async def test_a_dead_worker_is_replaced_and_excluded(make_scene: MakeScene, nats_url: str) -> None:
    scene = await make_scene()
    scene.pipeline.script = begin
    dead, model = scene.pipeline.worker, scene.node.instance.served_model_name
    asking = asyncio.create_task(scene.post("/generate", ASK))
    await scene.pipeline.job_arrived.get()
    scene.pipeline.worker = await ScriptedStage.join(nats_url, Stage.WORKER, model)
    scene.pipeline.script = answer_all

    await scene.lose(dead)

    assert (await asking).json()["text"] == text_of(NUM_TOKENS)
    assert scene.pipeline.jobs[1].excluded_workers == (dead.node.instance.instance_id,), "others may not miss it yet"


async def test_a_request_waits_for_a_stage_to_come_back(make_scene: MakeScene, nats_url: str) -> None:
    scene = await make_scene()
    scene.pipeline.script = begin
    asking = asyncio.create_task(scene.post("/generate", ASK))
    await scene.pipeline.job_arrived.get()
    await scene.lose(scene.pipeline.detokenizer)
    assert (await scene.http.get("/ready")).status_code == 503
    scene.pipeline.script = answer_all

    model = scene.node.instance.served_model_name
    scene.pipeline.detokenizer = await ScriptedStage.join(nats_url, Stage.DETOKENIZER, model)

    assert (await asking).json()["text"] == text_of(NUM_TOKENS)
    await scene.pipeline.detokenizer.leave()


async def test_a_request_waits_while_the_only_worker_hangs_in_a_step(scene: Scene) -> None:
    scene.pipeline.script = begin
    asking = asyncio.create_task(scene.post("/generate", ASK))
    await scene.pipeline.job_arrived.get()
    await scene.hang(scene.pipeline.worker)
    await asyncio.wait_for(scene.pipeline.worker.aborts.get(), 5)
    scene.pipeline.script = answer_all
    await scene.pipeline.worker.beat(step_age_s=0.0)

    assert (await asking).json()["text"] == text_of(NUM_TOKENS)
    assert len(scene.pipeline.jobs) == 2, "nobody was bothered meanwhile"


async def test_a_wait_ends_with_the_resume_timeout(make_scene: MakeScene) -> None:
    scene = await make_scene(resume_timeout=0.3)
    scene.pipeline.script = begin
    asking = asyncio.create_task(scene.post("/generate", ASK))
    await scene.pipeline.job_arrived.get()

    await scene.lose(scene.pipeline.worker)

    answer = await asking
    assert answer.status_code == 503
    assert answer.json()["message"] == "No worker came back within 0.3 s."


async def test_a_job_that_nobody_accepts_is_sent_again(scene: Scene) -> None:
    scene.pipeline.script = ignore
    asking = asyncio.create_task(scene.post("/generate", ASK))
    first = await scene.pipeline.job_arrived.get()
    scene.pipeline.script = answer_all

    assert (await asking).json()["text"] == text_of(NUM_TOKENS)
    second = scene.pipeline.jobs[1]
    assert not second.is_resume
    assert second.prompt == first.prompt
    assert second.sampling == first.sampling


async def test_a_request_that_crashes_three_workers_without_progress_fails(scene: Scene) -> None:
    async def crash(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
        await pipeline.accept(job)
        await fail_retryably(pipeline, job)

    scene.pipeline.script = crash
    answer = await scene.post("/generate", ASK)

    assert answer.status_code == 500
    assert "3 times" in answer.json()["message"]
    assert len(scene.pipeline.jobs) == 3


async def test_an_error_of_a_stage_has_its_status_and_message(scene: Scene) -> None:
    async def refuse(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
        sender = pipeline.tokenizer.node.instance.peer
        failed = Failed(key=job.key, sender=sender, code=ErrorCode.CONTEXT_LENGTH, message="too long")
        await pipeline.tell(job, failed)

    scene.pipeline.script = refuse
    for stream in (False, True):
        answer = await scene.post("/generate", ASK | {"stream": stream})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        assert answer.json()["message"] == "too long"


async def test_an_error_in_the_middle_of_a_stream_is_an_event_before_done(scene: Scene) -> None:
    async def break_down(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
        await begin(pipeline, job)
        sender = pipeline.worker.node.instance.peer
        failed = Failed(key=job.key, sender=sender, code=ErrorCode.UNAVAILABLE, message="gone")
        await pipeline.tell(job, failed)

    scene.pipeline.script = break_down
    *_, error, done = await scene.post_stream("/generate", ASK | {"stream": True})

    assert done == "[DONE]"
    assert json.loads(error)["error"] == {
        "object": "error",
        "message": "gone",
        "type": "service_unavailable",
        "param": None,
        "code": 503,
        "retryable": True,
    }


async def test_a_finished_choice_is_not_asked_for_again(scene: Scene) -> None:
    async def finish_one(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
        await pipeline.accept(job)
        await pipeline.send(job, [(0, 0, NUM_TOKENS)], finish=FinishReason.LENGTH)
        await pipeline.send(job, [(1, 0, 2)])
        pipeline.script = answer_all
        await release(pipeline, job)

    scene.pipeline.script = finish_one
    params = ASK["sampling_params"] | {"n": 2}
    answers = (await scene.post("/generate", ASK | {"sampling_params": params})).json()

    assert [answer["text"] for answer in answers] == [text_of(NUM_TOKENS)] * 2
    assert scene.pipeline.jobs[1].sequences == (SequenceStart(1, pack_u32([1000, 1001]), len(text_of(2))),)


async def test_repetitions_and_stale_attempts_change_nothing(scene: Scene) -> None:
    async def stutter(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
        await begin(pipeline, job)
        await pipeline.send(job, [(0, 0, 1)])
        await pipeline.send(job, [(0, 0, 3)])
        if len(pipeline.jobs) == 1:
            await release(pipeline, job)
            return
        await pipeline.send(pipeline.jobs[0], [(0, 3, 1)])
        await answer_all(pipeline, job)

    scene.pipeline.script = stutter
    answer = (await scene.post("/generate", ASK)).json()

    assert answer["text"] == text_of(NUM_TOKENS)
    metrics = (await scene.http.get("/metrics")).text
    assert "millrace_gateway_fenced_rows_total 1.0" in metrics
    assert "millrace_gateway_duplicate_rows_total 4.0" in metrics
    assert 'millrace_gateway_repairs_total{cause="released",stage="worker"} 1.0' in metrics


async def test_a_report_about_an_unknown_request_is_answered_by_an_abort(scene: Scene) -> None:
    await scene.pipeline.worker.report(scene.node.instance.instance_id, 4711, RequestState.RUNNING, 1)

    for stage in (scene.pipeline.worker, scene.pipeline.detokenizer):
        abort = await asyncio.wait_for(stage.aborts.get(), 5)
        assert abort.key == 4711
        assert abort.sender == scene.node.instance.peer


async def test_resumed_ids_are_those_that_were_delivered(scene: Scene) -> None:
    scene.pipeline.script = begin
    asking = asyncio.create_task(scene.post("/generate", ASK))
    job = await scene.pipeline.job_arrived.get()
    await scene.pipeline.send(job, [(0, 1, 2)])
    scene.pipeline.script = answer_all
    await release(scene.pipeline, job)

    assert (await asking).status_code == 200
    assert unpack_u32(scene.pipeline.jobs[1].sequences[0].output_ids).tolist() == [1000, 1001, 1002]


async def test_tokens_may_overtake_the_news_of_where_they_come_from(scene: Scene) -> None:
    async def overtake(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
        await pipeline.send(job, [(0, 0, 2)])
        await begin(pipeline, job)
        await pipeline.send(job, [(0, 2, NUM_TOKENS - 2)], finish=FinishReason.LENGTH)

    scene.pipeline.script = overtake

    assert (await scene.post("/generate", ASK)).json()["text"] == text_of(NUM_TOKENS)
    assert len(scene.pipeline.jobs) == 1
