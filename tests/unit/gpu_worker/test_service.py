"""The worker service over a real bus, with an engine that needs no model."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gpu_worker.scheduling.batch import StepResult
from gpu_worker.scheduling.sequence import Sequence
from gpu_worker.synthetic import SyntheticEngine, SyntheticOptions
from tests.unit.gpu_worker.builders import make_rig
from tests.unit.gpu_worker.bus_peers import DETOKENIZER, GATEWAY, Mailbox, WorkerUnderTest, job, running_worker
from tests.unit.wire.broker import Broker
from wire import orphans, subjects
from wire.columns import pack_u32, unpack_u8, unpack_u32, unpack_u64
from wire.messages import (
    Abort,
    BatchAck,
    Describe,
    Description,
    ErrorCode,
    Failed,
    FinishReason,
    FlushCache,
    FlushCacheReply,
    Heartbeat,
    InstanceState,
    Peer,
    Progress,
    Reattach,
    ReattachPoint,
    Released,
    RequestState,
    SequenceStart,
    Stage,
    TokenBatch,
)


class GatedEngine(SyntheticEngine):
    """Takes a step only when the test allows it."""

    def __init__(self) -> None:
        super().__init__(SyntheticOptions(vocab_size=1000, context_length=1024))
        self.gate = threading.Semaphore(0)

    def step(self, *announce: Any) -> StepResult:
        assert self.gate.acquire(timeout=10)
        return super().step(*announce)


class QueuingEngine(GatedEngine):
    """All but one of its sequences seem to wait."""

    def running(self) -> list[Sequence]:
        return super().running()[:1]

    def waiting(self) -> list[Sequence]:
        return super().running()[1:]


def fast_engine() -> SyntheticEngine:
    return SyntheticEngine(SyntheticOptions(vocab_size=1000, context_length=1024))


def tokens_of(mailbox: Mailbox, stream_id: int) -> list[int]:
    """All ids of a stream, asserting that its rows follow each other without a gap."""
    ids: list[int] = []
    for batch in mailbox.batches():
        flat, start = unpack_u32(batch.token_ids), 0
        rows = zip(unpack_u32(batch.stream_ids), unpack_u32(batch.first_indexes), unpack_u32(batch.counts), strict=True)
        for row_stream, first_index, count in rows:
            if row_stream == stream_id:
                assert first_index == len(ids)
                ids += flat[start : start + count]
            start += count
    return ids


async def told_of(worker: WorkerUnderTest, key: int, number: int) -> list[Progress]:
    """The first receipts of a request."""

    def receipts(messages: list[object]) -> list[Progress]:
        return [m for m in messages if isinstance(m, Progress) and m.is_receipt and key in unpack_u64(m.keys)]

    await worker.gateway.until(lambda messages: len(receipts(messages)) >= number)
    return receipts(worker.gateway.messages)


def num_finished(messages: list[object]) -> int:
    return sum(len(message.finishes) for message in messages if isinstance(message, TokenBatch))


async def test_a_job_is_acknowledged_and_every_token_reaches_the_detokenizer(nats_url: str) -> None:
    async with running_worker(nats_url, fast_engine()) as worker:
        await worker.send_job(job(11, max_new_tokens=50))
        await worker.detokenizer.until(lambda messages: num_finished(messages) == 1)
        receipt = await worker.gateway.first(Progress)
        assert receipt.is_receipt
        assert list(unpack_u64(receipt.keys)) == [11]
        assert len(tokens_of(worker.detokenizer, 1)) == 50
        batches = worker.detokenizer.batches()
        assert [batch.batch_seq for batch in batches] == list(range(1, len(batches) + 1))
        (opening,) = [opening for batch in batches for opening in batch.opens]
        assert (opening.key, opening.choice, opening.num_prompt_tokens) == (11, 0, 3)
        (finish,) = batches[-1].finishes
        assert (finish.reason, finish.num_output_tokens) == (FinishReason.LENGTH, 50)


async def test_a_resumed_choice_continues_at_its_index_and_opens_with_what_was_delivered(nats_url: str) -> None:
    given = pack_u32([1, 2, 3])
    async with running_worker(nats_url, fast_engine()) as worker:
        await worker.send_job(job(12, max_new_tokens=10, starts=(SequenceStart(1, given, 7),)))
        await worker.detokenizer.until(lambda messages: num_finished(messages) == 1)
        first = worker.detokenizer.batches()[0]
        assert list(unpack_u32(first.first_indexes)) == [3]
        assert (first.opens[0].output_ids, first.opens[0].text_len, first.opens[0].choice) == (given, 7, 1)
        (finish,) = worker.detokenizer.batches()[-1].finishes
        assert finish.num_output_tokens == 10


async def test_without_acknowledgements_rows_wait_and_then_follow_as_longer_ones(nats_url: str) -> None:
    async with running_worker(nats_url, engine := GatedEngine()) as worker:
        await worker.send_job(job(13, max_new_tokens=401))
        for step in range(1, 129):
            engine.gate.release()
            await worker.detokenizer.until(lambda messages, step=step: len(messages) == step)
        for _ in range(272):
            engine.gate.release()
        await worker.gateway.first(Progress, lambda report: list(unpack_u32(report.num_output_tokens)) == [400])
        assert len(worker.detokenizer.batches()) == 128
        await worker.send_control(BatchAck(DETOKENIZER, worker.peer, 128))
        await worker.detokenizer.until(lambda messages: len(messages) == 129)
        assert len(tokens_of(worker.detokenizer, 1)) == 400
        engine.gate.release()
        await worker.detokenizer.until(lambda messages: num_finished(messages) == 1)
        assert len(tokens_of(worker.detokenizer, 1)) == 401


async def test_an_abort_ends_a_request_without_another_row(nats_url: str) -> None:
    async with running_worker(nats_url, engine := GatedEngine()) as worker:
        await worker.send_job(job(14, max_new_tokens=500))
        engine.gate.release()
        await worker.detokenizer.until(lambda messages: len(messages) == 1)
        await worker.send_control(Abort(GATEWAY, 14))
        await worker.send_job(job(15, max_new_tokens=1))
        await worker.gateway.first(Progress, lambda report: list(unpack_u64(report.keys)) == [15])
        for _ in range(4):
            engine.gate.release()
        await worker.detokenizer.until(lambda messages: num_finished(messages) == 1)
        assert len(tokens_of(worker.detokenizer, 1)) == 1
        description = await worker.ask(Describe())
        assert isinstance(description, Description)
        assert description.stats["num_held_requests"] == 0


async def test_a_job_that_comes_later_than_the_loss_of_its_gateway_is_given_up(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "ORPHAN_TIMEOUT_S", 0.1)
    async with running_worker(nats_url, engine := GatedEngine()) as worker:
        await worker.send_job(job(38, max_new_tokens=500))
        await worker.gateway.first(Progress)
        beats = Mailbox()
        await worker.bus.subscribe(subjects.presence(Stage.WORKER, worker.peer.instance_id), beats.receive)
        await beats.first(Heartbeat, lambda beat: beat.num_states == 0)
        engine.gate.release(2)  # far from enough for all of its tokens
        await beats.first(Heartbeat, lambda beat: beat.num_running == 0)


async def test_an_abort_that_overtakes_its_job_still_ends_it(nats_url: str) -> None:
    async with running_worker(nats_url, fast_engine()) as worker:
        await worker.send_control(Abort(GATEWAY, 16))
        # The reply comes on the connection that the abort came on, and after it.
        await worker.ask(Describe())
        await worker.send_job(job(16))
        await worker.send_job(job(17))
        await worker.detokenizer.until(lambda messages: num_finished(messages) == 1)
        assert [opening.key for batch in worker.detokenizer.batches() for opening in batch.opens] == [17]


async def test_a_request_that_can_never_be_served_fails_with_limit_and_value(nats_url: str) -> None:
    async with running_worker(nats_url, fast_engine()) as worker:
        broken = job(18, starts=(SequenceStart(0, pack_u32([999_999])),))
        await worker.send_job(broken)
        failed = await worker.gateway.first(Failed)
        assert (failed.key, failed.code, failed.is_retryable) == (18, ErrorCode.INVALID_REQUEST, False)
        assert "999999" in failed.message
        assert "1000" in failed.message


async def test_a_failed_step_fails_its_requests_as_retryable_and_the_next_one_is_served(nats_url: str) -> None:
    class FailsOnce(SyntheticEngine):
        has_failed = False

        def step(self, *announce: Any) -> StepResult:
            if not self.has_failed:
                self.has_failed = True
                raise RuntimeError("the card fell off")
            return super().step(*announce)

    async with running_worker(nats_url, FailsOnce(SyntheticOptions(vocab_size=1000, context_length=1024))) as worker:
        await worker.send_job(job(19))
        failed = await worker.gateway.first(Failed)
        assert (failed.key, failed.is_retryable) == (19, True)
        assert "the card fell off" in failed.message
        await worker.send_job(job(20))
        await worker.detokenizer.until(lambda messages: num_finished(messages) == 1)


async def test_a_drain_finishes_what_is_held_and_hands_new_jobs_back(nats_url: str) -> None:
    async with running_worker(nats_url, engine := GatedEngine()) as worker:
        await worker.send_job(job(21, max_new_tokens=2))
        await worker.gateway.first(Progress)
        worker.node.instance.state = InstanceState.DRAINING
        draining = asyncio.create_task(worker.service.drain())
        await worker.send_job(job(22))
        released = await worker.gateway.first(Released)
        assert list(unpack_u64(released.keys)) == [22]
        assert not draining.done()
        engine.gate.release(2)
        await worker.detokenizer.until(lambda messages: num_finished(messages) == 1)
        await worker.send_control(BatchAck(DETOKENIZER, worker.peer, 2))
        await draining


async def test_a_drain_ends_when_the_last_tokens_have_arrived(nats_url: str) -> None:
    async with running_worker(nats_url, fast_engine()) as worker:
        await worker.send_job(job(25, max_new_tokens=1))
        await worker.detokenizer.until(lambda messages: num_finished(messages) == 1)
        draining = asyncio.create_task(worker.service.drain())
        done, _ = await asyncio.wait({draining}, timeout=0.2)
        assert not done, "the gateway would ask another worker for what is still on its way"
        await worker.send_control(BatchAck(DETOKENIZER, worker.peer, 1))
        await draining


async def test_a_drain_that_takes_too_long_hands_its_requests_back(nats_url: str) -> None:
    async with running_worker(nats_url, engine := GatedEngine(), drain_timeout_s=0.05) as worker:
        await worker.send_job(job(23))
        await worker.gateway.first(Progress)
        await worker.service.drain()
        released = await worker.gateway.first(Released)
        assert list(unpack_u64(released.keys)) == [23]
        engine.gate.release()


async def test_what_gets_a_new_key_while_a_drain_still_sends_is_handed_back_by_that(nats_url: str) -> None:
    async with running_worker(nats_url, engine := GatedEngine(), drain_timeout_s=0.05) as worker:
        await worker.send_job(job(23))
        await worker.gateway.first(Progress)
        async with worker.service._outbox._sending:
            draining = asyncio.create_task(worker.service.drain())
            await asyncio.wait({draining}, timeout=0.3)
            points = (ReattachPoint(0, 0, 0),)
            again = Reattach(sender=GATEWAY, old_key=23, new_key=24, detokenizer=DETOKENIZER, points=points)
            await worker.send_control(again)
            await worker.gateway.first(Progress, lambda report: list(unpack_u64(report.keys)) == [24])
        await draining
        released = await worker.gateway.first(Released)
        assert list(unpack_u64(released.keys)) == [24]
        engine.gate.release()


async def test_a_suspect_is_announced_before_its_prefill(nats_url: str) -> None:
    gate = threading.Event()

    def slow(_: Sequence) -> int:
        assert gate.wait(10)
        return 1

    async with running_worker(nats_url, make_rig(rule=slow).engine) as worker:
        await worker.send_job(job(26))  # which is in a step while the suspect waits
        await worker.send_job(msgspec.structs.replace(job(27), is_suspect=True))
        await worker.gateway.first(Progress, lambda report: list(unpack_u64(report.keys)) == [27])
        gate.set()
        receipts = await told_of(worker, 27, 2)
        states = [list(unpack_u8(receipt.states)) for receipt in receipts]
        assert states == [[RequestState.QUEUED], [RequestState.RUNNING]]


@pytest.mark.parametrize("is_busy", [False, True])
async def test_the_prefix_cache_is_flushed_only_when_idle(nats_url: str, is_busy: bool) -> None:
    async with running_worker(nats_url, engine := GatedEngine()) as worker:
        if is_busy:
            await worker.send_job(job(24))
            await worker.gateway.first(Progress)
        reply = await worker.ask(FlushCache(0.01))
        assert isinstance(reply, FlushCacheReply)
        assert reply.is_flushed is not is_busy
        assert bool(reply.message) is is_busy
        engine.gate.release(10)


async def test_a_flush_that_waits_keeps_nobody_from_asking(nats_url: str) -> None:
    async with running_worker(nats_url, engine := GatedEngine()) as worker:
        await worker.send_job(job(26, max_new_tokens=1))
        await worker.gateway.first(Progress)
        flushing = asyncio.create_task(worker.ask(FlushCache(5.0)))
        assert isinstance(await worker.ask(Describe()), Description)
        assert not flushing.done()
        engine.gate.release(2)
        reply = await flushing
        assert isinstance(reply, FlushCacheReply)
        assert reply.is_flushed


async def test_a_worker_says_how_long_its_steps_may_take(nats_url: str) -> None:
    async with running_worker(nats_url, fast_engine()) as worker:
        beats = Mailbox()
        await worker.bus.subscribe(subjects.presence(Stage.WORKER, worker.peer.instance_id), beats.receive)
        assert (await beats.first(Heartbeat)).step_timeout_s == 77.0


async def test_batches_fit_a_broker_with_a_small_limit(tmp_path: Path) -> None:
    broker = Broker(tmp_path, "max_payload: 4096\n")
    broker.start()
    try:
        async with running_worker(broker.url, fast_engine()) as worker:
            await worker.send_job(job(27, max_new_tokens=1, starts=tuple(map(SequenceStart, range(100)))))
            await worker.detokenizer.until(lambda messages: num_finished(messages) == 100)
    finally:
        broker.stop()


@pytest.mark.parametrize("fault", [{"gateway": Peer("a.b", 1)}, {"detokenizer": Peer("a.b", 1)}, {"key": -1}])
async def test_a_job_from_or_for_nobody_harms_no_other(nats_url: str, fault: dict[str, object]) -> None:
    async with running_worker(nats_url, fast_engine()) as worker:
        await worker.send_job(msgspec.structs.replace(job(28), **fault))
        await worker.send_job(job(29))
        await worker.detokenizer.until(lambda messages: num_finished(messages) == 1)
        assert worker.node.registry.get_sample_value("millrace_bus_undecodable_messages_total") == 1


def states(report: Progress) -> dict[int, RequestState]:
    """The state of every key that a report names."""
    return dict(zip(unpack_u64(report.keys), map(RequestState, unpack_u8(report.states)), strict=True))


async def test_a_finished_request_is_reported_until_its_last_tokens_are_acknowledged(nats_url: str) -> None:
    async with running_worker(nats_url, fast_engine()) as worker:
        await worker.send_job(job(30, max_new_tokens=4))
        report = await worker.gateway.first(Progress, lambda report: states(report) == {30: RequestState.FINISHED})
        assert list(unpack_u32(report.num_output_tokens)) == [4]
        await worker.send_control(BatchAck(DETOKENIZER, worker.peer, worker.detokenizer.batches()[-1].batch_seq))
        await worker.send_job(job(31, max_new_tokens=4))
        await worker.gateway.first(Progress, lambda report: states(report) == {31: RequestState.FINISHED})


async def test_a_finished_request_is_forgotten_when_its_last_tokens_may_be_lost(nats_url: str) -> None:
    async with running_worker(nats_url, engine := GatedEngine(), stall_timeout_s=0.7) as worker:
        engine.gate.release()
        await worker.send_job(job(32, max_new_tokens=1))
        await worker.send_job(job(33, max_new_tokens=2))
        await worker.gateway.first(Progress, lambda report: states(report).get(32) is RequestState.FINISHED)
        await worker.gateway.first(Progress, lambda report: not report.is_receipt and list(states(report)) == [33])
        engine.gate.release(2)


async def test_a_worker_that_has_finished_something_tells_how_long_its_queue_takes(nats_url: str) -> None:
    async with running_worker(nats_url, engine := QueuingEngine()) as worker:
        beats = Mailbox()
        await worker.bus.subscribe(subjects.presence(Stage.WORKER, worker.peer.instance_id), beats.receive)
        for key, max_new_tokens in ((34, 2), (35, 9), (36, 9)):
            await worker.send_job(job(key, max_new_tokens=max_new_tokens))
        await told_of(worker, 36, 1)
        engine.gate.release()  # the first may have begun before the others came
        first = await beats.first(Heartbeat, lambda beat: beat.num_waiting > 0)
        assert first.backlog_s == 0.0
        engine.gate.release()
        assert (await beats.first(Heartbeat, lambda beat: beat.backlog_s > 0.0)).num_waiting > 0
        engine.gate.release(20)
