"""A request that goes on under a new key: what was computed is sent again, and nothing is computed twice."""

from typing import Any

import pytest

from gpu_worker.scheduling.batch import TokenLogprobs
from gpu_worker.synthetic import SyntheticEngine, SyntheticOptions
from tests.unit.gpu_worker.bus_peers import GATEWAY, Mailbox, WorkerUnderTest, job, resampled, running_worker
from tests.unit.gpu_worker.test_service import GatedEngine, num_finished
from wire import subjects
from wire.columns import pack_u32, unpack_u32, unpack_u64
from wire.messages import (
    Abort,
    Describe,
    Description,
    Peer,
    Progress,
    Reattach,
    ReattachPoint,
    Released,
    SequenceStart,
    Stage,
    StreamOpen,
    TokenBatch,
)
from wire.sampling import SamplingParams

OTHER = Peer("detokenizer-other", 1)


def reattach(old_key: int, new_key: int, *points: ReattachPoint, **fields: Any) -> Reattach:
    """As the gateway sends it."""
    known = {"sender": GATEWAY, "detokenizer": OTHER, "attempt": 2} | fields
    return Reattach(old_key=old_key, new_key=new_key, points=points or (ReattachPoint(0, 0, 0),), **known)


async def other_detokenizer(worker: WorkerUnderTest) -> Mailbox:
    """The mailbox of the second detokenizer."""
    mailbox = Mailbox()
    model = worker.node.instance.model_key
    await worker.bus.subscribe(subjects.data(model, Stage.DETOKENIZER, OTHER.instance_id), mailbox.receive)
    await worker.bus.flush()
    return mailbox


def opens_of(mailbox: Mailbox) -> dict[int, StreamOpen]:
    """The openings by choice."""
    return {opening.choice: opening for batch in mailbox.batches() for opening in batch.opens}


def rows_of(mailbox: Mailbox, stream_id: int, first_index: int) -> list[int]:
    """The ids of a stream from this index on, asserting that its rows follow each other without a gap."""
    ids: list[int] = []
    for batch in mailbox.batches():
        flat, start = unpack_u32(batch.token_ids), 0
        rows = zip(unpack_u32(batch.stream_ids), unpack_u32(batch.first_indexes), unpack_u32(batch.counts), strict=True)
        for row_stream, row_first, count in rows:
            if row_stream == stream_id:
                assert row_first == first_index + len(ids)
                ids += flat[start : start + count]
            start += count
    return ids


def tokens_so_far(number: int) -> Any:
    """Whether some report tells of this many tokens."""
    return lambda report: list(unpack_u32(report.num_output_tokens)) == [number]


def num_steps(worker: WorkerUnderTest) -> float:
    return worker.node.registry.get_sample_value("millrace_worker_steps_total") or 0.0


async def test_a_running_request_goes_on_at_another_detokenizer_from_what_was_delivered(nats_url: str) -> None:
    async with running_worker(nats_url, engine := GatedEngine()) as worker:
        other = await other_detokenizer(worker)
        await worker.send_job(job(1, max_new_tokens=8))
        engine.gate.release(5)
        await worker.gateway.first(Progress, tokens_so_far(5))
        old_id = worker.detokenizer.batches()[0].opens[0].stream_id
        await worker.send_control(reattach(1, 2, ReattachPoint(0, 3, 11)))
        receipt = await worker.gateway.first(Progress, lambda report: list(unpack_u64(report.keys)) == [2])
        assert receipt.is_receipt
        engine.gate.release(3)
        await other.until(lambda messages: num_finished(messages) == 1)
        opening = opens_of(other)[0]
        assert (opening.key, opening.text_len, opening.num_prompt_tokens) == (2, 11, 3)
        assert opening.stream_id != old_id
        replayed = list(unpack_u32(opening.output_ids))
        assert len(replayed) == 3
        ids = replayed + rows_of(other, opening.stream_id, 3)
        assert ids[:5] == rows_of(worker.detokenizer, old_id, 0)
        assert len(ids) == 8
        assert num_steps(worker) == 8


async def test_a_request_that_waits_has_nothing_to_send_yet(nats_url: str) -> None:
    given = pack_u32([4, 5])
    async with running_worker(nats_url, engine := GatedEngine()) as worker:
        other = await other_detokenizer(worker)
        await worker.send_job(job(1, max_new_tokens=4, starts=(SequenceStart(0, given, 2),)))
        await worker.gateway.first(Progress)
        await worker.send_control(reattach(1, 2, ReattachPoint(0, 2, 2)))
        await worker.gateway.first(Progress, lambda report: list(unpack_u64(report.keys)) == [2])
        engine.gate.release(2)
        await other.until(lambda messages: num_finished(messages) == 1)
        assert opens_of(other)[0].output_ids == given
        assert len(rows_of(other, opens_of(other)[0].stream_id, 2)) == 2


async def test_a_request_that_has_finished_is_sent_to_its_end_again(nats_url: str) -> None:
    engine = SyntheticEngine(SyntheticOptions(vocab_size=1000, context_length=1024))
    async with running_worker(nats_url, engine) as worker:
        other = await other_detokenizer(worker)
        await worker.send_job(job(1, max_new_tokens=6))
        await worker.detokenizer.until(lambda messages: num_finished(messages) == 1)
        await worker.send_control(reattach(1, 2, ReattachPoint(0, 4, 9)))
        await other.until(lambda messages: num_finished(messages) == 1)
        (batch,) = other.batches()
        assert batch.finishes == worker.detokenizer.batches()[-1].finishes
        assert rows_of(other, batch.opens[0].stream_id, 4) == rows_of(worker.detokenizer, 1, 0)[4:]


async def test_logprobs_come_again_with_their_tokens(nats_url: str) -> None:
    class Scored(GatedEngine):
        """Gives every token a logprob by its index."""

        def step(self, *announce: Any) -> Any:
            result = super().step(*announce)
            for row, first_index in enumerate(result.first_indexes):
                result.logprobs[row] = (TokenLogprobs(-float(first_index)),)
            return result

    async with running_worker(nats_url, engine := Scored()) as worker:
        other = await other_detokenizer(worker)
        sampling = SamplingParams(max_new_tokens=4, return_logprob=True)
        await worker.send_job(resampled(job(1, starts=(SequenceStart(0, pack_u32([9]), 1),)), sampling))
        engine.gate.release(3)
        await worker.detokenizer.until(lambda messages: num_finished(messages) == 1)
        await worker.send_control(reattach(1, 2, ReattachPoint(0, 2, 2)))
        await other.until(lambda messages: num_finished(messages) == 1)
        (batch,) = other.batches()
        assert batch.logprobs is not None
        assert list(memoryview(batch.logprobs.chosen).cast("f")) == [-2.0, -3.0]


async def test_a_choice_that_a_stop_string_ended_can_be_asked_for_again(nats_url: str) -> None:
    async with running_worker(nats_url, engine := GatedEngine()) as worker:
        other = await other_detokenizer(worker)
        await worker.send_job(job(1, max_new_tokens=9, starts=(SequenceStart(0), SequenceStart(1))))
        engine.gate.release(2)
        await worker.gateway.first(Progress, tokens_so_far(4))
        await worker.send_control(Abort(Peer("detokenizer-test", 1), 1, 0))
        await worker.send_control(reattach(1, 2, ReattachPoint(0, 0, 0), ReattachPoint(1, 2, 2)))
        await other.until(lambda messages: any(isinstance(m, TokenBatch) and len(m.opens) == 2 for m in messages))
        opens = opens_of(other)
        assert len(rows_of(other, opens[0].stream_id, 0)) == 2
        assert rows_of(other, opens[1].stream_id, 2) == []
        assert opens[1].settings.num_sequences == 2
        engine.gate.release(20)


async def test_a_choice_that_the_gateway_has_whole_is_stopped(nats_url: str) -> None:
    async with running_worker(nats_url, engine := GatedEngine()) as worker:
        other = await other_detokenizer(worker)
        await worker.send_job(job(1, max_new_tokens=3, starts=(SequenceStart(0), SequenceStart(1))))
        engine.gate.release()
        await worker.gateway.first(Progress, tokens_so_far(2))
        await worker.send_control(reattach(1, 2, ReattachPoint(1, 1, 1)))
        await worker.gateway.first(Progress, lambda report: list(unpack_u64(report.keys)) == [2])
        engine.gate.release(10)
        await other.until(lambda messages: num_finished(messages) == 1)
        assert set(opens_of(other)) == {1}
        description = await worker.ask(Describe())
        assert isinstance(description, Description)
        assert description.stats["num_held_requests"] == 0


async def test_a_second_reattachment_may_name_any_key_that_the_request_has_had(nats_url: str) -> None:
    async with running_worker(nats_url, engine := GatedEngine()) as worker:
        other = await other_detokenizer(worker)
        await worker.send_job(job(1, max_new_tokens=3))
        engine.gate.release()
        await worker.gateway.first(Progress, tokens_so_far(1))
        await worker.send_control(reattach(1, 2, ReattachPoint(0, 1, 1)))
        await worker.send_control(reattach(1, 3, ReattachPoint(0, 0, 0)))
        engine.gate.release(2)
        await other.until(lambda messages: num_finished(messages) == 1)
        assert opens_of(other)[0].key == 3
        assert len(rows_of(other, opens_of(other)[0].stream_id, 0)) == 3


async def test_the_present_key_ends_a_request_and_a_past_one_does_not(nats_url: str) -> None:
    async with running_worker(nats_url, engine := GatedEngine()) as worker:
        other = await other_detokenizer(worker)
        await worker.send_job(job(1, max_new_tokens=3))
        await worker.gateway.first(Progress)
        await worker.send_control(reattach(1, 2))
        await worker.send_control(Abort(GATEWAY, 1))
        await worker.gateway.first(Progress, lambda report: list(unpack_u64(report.keys)) == [2])
        engine.gate.release(1)
        await other.until(bool)
        await worker.send_control(Abort(GATEWAY, 2))
        await worker.ask(Describe())  # on the connection that the abort came on, and after it
        engine.gate.release(3)
        await worker.send_job(job(9, max_new_tokens=1))
        await worker.gateway.first(
            Progress, lambda report: not report.is_receipt and list(unpack_u64(report.keys)) == [9]
        )
        assert num_finished(other.messages) == 0


@pytest.mark.parametrize(
    "message",
    [
        reattach(77, 2),
        reattach(1, 2, ReattachPoint(0, 3, 0)),
        reattach(1, 2, ReattachPoint(5, 0, 0)),
        reattach(1, 2, sender=Peer("gateway-other", 1)),
    ],
    ids=["unknown key", "beyond what was computed", "unknown choice", "another gateway's"],
)
async def test_what_cannot_be_continued_is_handed_back_at_once(nats_url: str, message: Reattach) -> None:
    async with running_worker(nats_url, engine := GatedEngine()) as worker:
        handed_back = Mailbox()
        await worker.bus.subscribe(subjects.gateway("gateway-other"), handed_back.receive)
        await worker.send_job(job(1, max_new_tokens=9))
        engine.gate.release(2)
        await worker.gateway.first(Progress, tokens_so_far(2))
        await worker.send_control(message)
        mailbox = worker.gateway if message.sender == GATEWAY else handed_back
        released = await mailbox.first(Released)
        assert list(unpack_u64(released.keys)) == [2]
        description = await worker.ask(Describe())
        assert isinstance(description, Description)
        is_untouched = message.old_key == 77 or message.sender != GATEWAY
        assert description.stats["num_held_requests"] == int(is_untouched)
        engine.gate.release(20)
