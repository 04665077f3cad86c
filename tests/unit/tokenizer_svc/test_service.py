"""The tokenizer between a gateway and workers, over a real broker."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from tests.unit.tokenizer_svc.jobs import chat, heartbeat
from tests.unit.tokenizer_svc.scene import QUEUED, Scene
from tokenizer_svc.served_model import ServedModel
from wire import orphans, subjects
from wire.columns import pack_u32, unpack_u32, unpack_u64
from wire.messages import (
    Describe,
    Description,
    Detokenize,
    DetokenizeReply,
    Dispatched,
    ErrorCode,
    ErrorReply,
    Failed,
    FlushCache,
    GenerateJob,
    Heartbeat,
    InstanceState,
    Progress,
    Released,
    SequenceStart,
    Stage,
    TextPrompt,
    Tokenize,
    TokenizeReply,
    TokensPrompt,
)
from wire.sampling import SamplingParams


async def test_a_chat_goes_to_a_worker_and_the_gateway_learns_which(scene: Scene, model: ServedModel) -> None:
    sampling = SamplingParams(max_new_tokens=None, stop=("x",), no_stop_trim=True, n=2)
    sequences = (SequenceStart(0), SequenceStart(1))
    await scene.send(7, chat("the capital"), sampling=sampling, sequences=sequences, received_ns=5)
    generate = await scene.worker.inbox.wait_for(GenerateJob)
    dispatched = await scene.gateway.inbox.wait_for(Dispatched)
    ids = model.encode(chat("the capital"))
    assert generate.prompt_ids == dispatched.prompt_ids == ids
    assert generate.sampling == dispatched.sampling
    assert generate.sampling.max_new_tokens == 64 - len(ids) // 4
    assert (generate.key, generate.request_id, generate.attempt, generate.received_ns) == (7, "request-7", 1, 5)
    assert (generate.gateway, generate.tokenizer) == (scene.gateway.peer, scene.node.instance.peer)
    assert generate.sequences == sequences
    assert (dispatched.worker, dispatched.model_fingerprint) == (scene.worker.peer, "fp")


async def test_the_stream_settings_hold_what_the_detokenizer_needs(scene: Scene) -> None:
    ids = pack_u32(range(3, 43))
    sampling = SamplingParams(max_new_tokens=4, min_new_tokens=2, stop=("a", "b"), skip_special_tokens=False)
    await scene.send(7, TokensPrompt(ids), sampling=sampling)
    stream = (await scene.worker.inbox.wait_for(GenerateJob)).stream
    assert unpack_u32(stream.prompt_tail).tolist() == list(range(27, 43))
    assert (stream.stop, stream.min_new_tokens, stream.num_sequences) == (("a", "b"), 2, 1)
    assert (stream.no_stop_trim, stream.skip_special_tokens) == (False, False)
    assert (stream.gateway, stream.request_id) == (scene.gateway.peer, "request-7")


async def test_receipt_comes_before_encoding(scene: Scene) -> None:
    await scene.plug.push()
    await scene.send(7, QUEUED)
    receipt = await scene.gateway.inbox.wait_for(Progress)
    assert receipt.is_receipt
    assert unpack_u64(receipt.keys).tolist() == [7]
    assert receipt.sender == scene.node.instance.peer


async def test_a_held_request_is_reported_with_every_heartbeat(scene: Scene) -> None:
    await scene.plug.push()
    await scene.send(7, QUEUED)
    report = await scene.gateway.inbox.wait_for(Progress, lambda progress: not progress.is_receipt)
    assert unpack_u64(report.keys).tolist() == [7]


async def test_a_tiny_prompt_overtakes_one_that_waits(scene: Scene) -> None:
    await scene.plug.push()
    await scene.send(7, QUEUED)
    await scene.send(8)
    assert (await scene.worker.inbox.wait_for(GenerateJob)).key == 8


async def test_a_refused_request_fails_exactly_once(scene: Scene) -> None:
    await scene.send(7, QUEUED)
    failed = await scene.gateway.inbox.wait_for(Failed)
    assert (failed.key, failed.code, failed.is_retryable) == (7, ErrorCode.CONTEXT_LENGTH, False)
    assert failed.message.endswith("is longer than the model's context length (64 tokens).")
    await scene.send(8)
    await scene.worker.inbox.wait_for(GenerateJob, lambda generate: generate.key == 8)
    assert len(scene.gateway.inbox.of(Failed)) == 1
    assert len(scene.worker.inbox.of(GenerateJob)) == 1


async def test_a_request_that_could_outgrow_the_broker_is_refused(scene: Scene) -> None:
    n = scene.node.data.max_payload // 4
    await scene.send(7, sampling=SamplingParams(max_new_tokens=8, n=n))
    failed = await scene.gateway.inbox.wait_for(Failed)
    assert failed.code is ErrorCode.TOO_LARGE
    assert str(scene.node.data.max_payload) in failed.message
    assert any(int(word) > 32 * n for word in failed.message.split() if word.isdigit())


async def test_long_stop_strings_count_in_what_could_outgrow_the_broker(scene: Scene) -> None:
    almost = SamplingParams(max_new_tokens=8, n=(scene.node.data.max_payload - 20_000) // 32)
    await scene.send(7, sampling=almost)
    assert (await scene.worker.inbox.wait_for(GenerateJob)).key == 7
    await scene.send(8, sampling=msgspec.structs.replace(almost, stop=("x" * 4000,)))
    failed = await scene.gateway.inbox.wait_for(Failed)
    assert (failed.key, failed.code) == (8, ErrorCode.TOO_LARGE)


async def test_without_a_worker_the_request_may_be_tried_again(scene: Scene) -> None:
    scene.node.members.drop(scene.worker.peer.instance_id, "gone")
    await scene.send(7)
    failed = await scene.gateway.inbox.wait_for(Failed)
    assert (failed.code, failed.is_retryable) == (ErrorCode.UNAVAILABLE, True)


async def test_a_worker_that_is_gone_is_replaced_at_once(scene: Scene) -> None:
    busy = heartbeat(Stage.WORKER, scene.worker.peer.instance_id, num_running=1000)
    scene.node.members.hear(busy)
    scene.ghost("worker-ghost")
    await scene.send(7)
    assert (await scene.worker.inbox.wait_for(GenerateJob)).key == 7
    last = await scene.gateway.inbox.wait_for(Dispatched, lambda dispatched: dispatched.worker == scene.worker.peer)
    assert last.key == 7
    assert scene.node.members.get("worker-ghost") is None
    assert not scene.gateway.inbox.of(Failed)


async def test_when_every_worker_is_gone_the_request_fails_once(scene: Scene) -> None:
    scene.node.members.drop(scene.worker.peer.instance_id, "gone")
    for number in range(5):
        scene.ghost(f"worker-ghost-{number}")
    await scene.send(7)
    failed = await scene.gateway.inbox.wait_for(Failed)
    assert (failed.key, failed.code, failed.is_retryable) == (7, ErrorCode.UNAVAILABLE, True)
    assert len(scene.gateway.inbox.of(Dispatched)) == 3
    assert len(scene.node.members.of_stage(Stage.WORKER)) == 2


async def test_a_resume_goes_on_unchanged_to_a_worker_of_the_same_model(scene: Scene) -> None:
    scene.ghost("worker-other", model_fingerprint="another")
    sequences = (SequenceStart(1, pack_u32([4, 5]), 3),)
    sampling = SamplingParams(max_new_tokens=9, temperature=0.0, n=2)
    frozen = TokensPrompt(pack_u32(range(30)))
    resume = {"is_resume": True, "attempt": 2, "model_fingerprint": "fp", "sampling_from_model": ("temperature",)}
    await scene.send(7, frozen, sampling=sampling, sequences=sequences, is_suspect=True, **resume)
    generate = await scene.worker.inbox.wait_for(GenerateJob)
    assert (generate.prompt_ids, generate.sampling, generate.sequences) == (frozen.token_ids, sampling, sequences)
    assert generate.attempt == 2
    assert generate.is_suspect
    assert generate.stream.num_sequences == 1


async def test_excluded_workers_get_nothing(scene: Scene) -> None:
    await scene.send(7, excluded_workers=(scene.worker.peer.instance_id,))
    assert (await scene.gateway.inbox.wait_for(Failed)).is_retryable
    assert not scene.worker.inbox.of(GenerateJob)


async def test_an_abort_that_overtakes_its_job_stops_it(scene: Scene) -> None:
    await scene.abort(7)
    await scene.send(7)
    await scene.send(8)
    assert (await scene.worker.inbox.wait_for(GenerateJob)).key == 8
    await scene.gateway.inbox.wait_for(Progress)  # which travels on another connection
    assert [unpack_u64(progress.keys).tolist() for progress in scene.gateway.inbox.of(Progress)] == [[8]]


async def test_an_aborted_request_is_dropped_in_silence(scene: Scene) -> None:
    await drops_in_silence(scene, lambda: scene.abort(7))


async def test_the_requests_of_a_dead_gateway_are_dropped(scene: Scene) -> None:
    async def leave() -> None:
        scene.node.members.drop(scene.gateway.peer.instance_id, "killed")

    await drops_in_silence(scene, leave)


async def test_a_job_that_comes_later_than_the_loss_of_its_gateway_is_dropped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "ORPHAN_TIMEOUT_S", 0.1)
    scene.node.members.drop(scene.gateway.peer.instance_id, "killed")
    await scene.plug.push()
    await scene.send(7, QUEUED)
    await scene.gateway.inbox.wait_for(Progress)
    await scene.gateway.listen(subjects.presence(Stage.TOKENIZER, scene.instance_id))
    await scene.gateway.inbox.wait_for(Heartbeat, lambda beat: beat.num_running == 0)


async def drops_in_silence(scene: Scene, drop: Callable[[], Awaitable[None]]) -> None:
    await scene.plug.push()
    await scene.send(7, QUEUED)
    await scene.gateway.inbox.wait_for(Progress)
    await drop()
    assert scene.service.num_held == 0
    scene.plug.pull()
    await scene.send(8)
    await scene.worker.inbox.wait_for(GenerateJob)
    assert not scene.gateway.inbox.of(Failed)
    assert [generate.key for generate in scene.worker.inbox.of(GenerateJob)] == [8]


async def test_an_abort_of_one_choice_leaves_the_others(scene: Scene) -> None:
    await scene.abort(7, choice=1)
    await scene.send(7)
    assert (await scene.worker.inbox.wait_for(GenerateJob)).key == 7


async def test_a_draining_tokenizer_finishes_what_it_holds(scene: Scene) -> None:
    await scene.plug.push()
    await scene.send(7, "the capital " * 100, sampling=SamplingParams(max_new_tokens=1))
    await scene.gateway.inbox.wait_for(Progress)
    scene.node.instance.state = InstanceState.DRAINING
    draining = asyncio.create_task(scene.service.drain())
    scene.plug.pull()
    await draining
    assert (await scene.gateway.inbox.wait_for(Failed)).key == 7
    assert not scene.gateway.inbox.of(Released)


async def test_what_does_not_finish_in_time_is_handed_back(scene: Scene) -> None:
    await scene.plug.push()
    await scene.send(7, QUEUED)
    await scene.gateway.inbox.wait_for(Progress)
    scene.node.instance.state = InstanceState.DRAINING
    await scene.service.drain()
    released = await scene.gateway.inbox.wait_for(Released)
    assert unpack_u64(released.keys).tolist() == [7]
    assert scene.service.num_held == 0


async def test_a_draining_tokenizer_hands_new_jobs_back(scene: Scene) -> None:
    scene.node.instance.state = InstanceState.DRAINING
    await scene.send(7)
    assert unpack_u64((await scene.gateway.inbox.wait_for(Released)).keys).tolist() == [7]
    assert not scene.gateway.inbox.of(Progress)


async def test_tokenize_answers_ids_per_prompt(scene: Scene, model: ServedModel) -> None:
    prompts = (TextPrompt("the capital"), chat("the"), TextPrompt(""))
    reply = await scene.ask(Tokenize(prompts=prompts))
    assert reply == TokenizeReply(tuple(model.encode(prompt) for prompt in prompts), 64)


async def test_detokenize_answers_texts(scene: Scene, model: ServedModel) -> None:
    ids = model.encode(TextPrompt("the capital<|im_end|>"))
    assert await scene.ask(Detokenize(token_ids=(ids, b""))) == DetokenizeReply(("the capital", ""))
    verbatim = Detokenize(token_ids=(ids,), skip_special_tokens=False)
    assert await scene.ask(verbatim) == DetokenizeReply(("the capital<|im_end|>",))


async def test_detokenize_refuses_ids_that_do_not_exist(scene: Scene) -> None:
    reply = await scene.ask(Detokenize(token_ids=(pack_u32([2**32 - 1]),)))
    assert isinstance(reply, ErrorReply)
    assert reply.code is ErrorCode.INVALID_REQUEST
    assert "4294967295" in reply.message


async def test_describe_answers_the_description(scene: Scene) -> None:
    assert await scene.ask(Describe()) == Description(settings={"a": 1})


async def test_other_questions_get_an_error_reply(scene: Scene) -> None:
    assert await scene.ask(FlushCache()) == ErrorReply(
        ErrorCode.INVALID_REQUEST, "A tokenizer does not answer FlushCache."
    )


async def test_metrics_count_what_happened(scene: Scene) -> None:
    await scene.send(7)
    await scene.send(8, QUEUED)
    await scene.gateway.inbox.wait_for(Dispatched)
    await scene.gateway.inbox.wait_for(Failed)
    await scene.worker.inbox.wait_for(GenerateJob)
    await scene.service.drain()
    value = scene.node.registry.get_sample_value
    assert value("millrace_tokenizer_requests_total") == 2
    assert value("millrace_tokenizer_prompt_tokens_total") == len(scene.worker.inbox.of(GenerateJob)[0].prompt_ids) / 4
    assert value("millrace_tokenizer_failures_total", {"code": "context_length_exceeded"}) == 1
    assert value("millrace_tokenizer_encode_seconds_count") == 2
