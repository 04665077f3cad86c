"""The bus over a real nats-server: order, limits, and who is told when nobody listens."""

import asyncio
import logging

import pytest
from prometheus_client import CollectorRegistry

from tests.unit.wire.conftest import connect
from tests.unit.wire.samples import GATEWAY, TRACEPARENT
from wire.bus import Bus, Delivery, MessageTooLargeError, NoReplyError
from wire.codec import encode
from wire.login import BusOptions
from wire.messages import Abort, BatchAck, Describe, Description, Detokenize, Message, Peer
from wire.metrics import BusMetrics


class Inbox:
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[Message, Delivery]] = asyncio.Queue()

    async def receive(self, message: Message, delivery: Delivery) -> None:
        """The handler to subscribe with."""
        await self.queue.put((message, delivery))

    async def next(self) -> Message:
        """The next message, waited for."""
        message, _ = await asyncio.wait_for(self.queue.get(), 10)
        return message


def counted(registry: CollectorRegistry, name: str) -> float:
    value = registry.get_sample_value(f"millrace_bus_{name}_total")
    assert value is not None
    return value


async def test_messages_arrive_in_the_order_of_publishing(bus: Bus, other_bus: Bus) -> None:
    inbox = Inbox()
    await bus.subscribe("test.order", inbox.receive)
    await bus.flush()
    for number in range(500):
        assert await other_bus.publish("test.order", Abort(GATEWAY, number))
    assert [await inbox.next() for _ in range(500)] == [Abort(GATEWAY, number) for number in range(500)]


async def test_nothing_is_missed_after_a_flush(bus: Bus, other_bus: Bus) -> None:
    for number in range(100):
        inbox = Inbox()
        await bus.subscribe(f"test.flush.{number}", inbox.receive)
        await bus.flush()
        await other_bus.publish(f"test.flush.{number}", Describe())
        assert await inbox.next() == Describe()


async def test_headers_and_reply_subject_are_delivered(bus: Bus) -> None:
    inbox = Inbox()
    await bus.subscribe("test.headers", inbox.receive)
    await bus.publish_encoded("test.headers", encode(Describe()), "test.back", {"traceparent": TRACEPARENT})
    _, delivery = await asyncio.wait_for(inbox.queue.get(), 10)
    assert delivery == Delivery({"traceparent": TRACEPARENT}, "test.back")


async def test_undecodable_messages_are_counted_and_logged_once_and_the_next_one_arrives(
    bus: Bus, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox()
    await bus.subscribe("test.undecodable", inbox.receive)
    for _ in range(3):
        await bus.publish_encoded("test.undecodable", b"\x81\xa4type\xa5Later")
    await bus.publish("test.undecodable", Describe())
    assert await inbox.next() == Describe()
    assert counted(registry, "undecodable_messages") == 3
    assert [record.message for record in caplog.records if "undecodable" in record.message] == [
        "undecodable message on test.undecodable: Invalid value 'Later' - at `$.type`"
    ]


@pytest.mark.parametrize("error", [ValueError("bad"), TimeoutError("slow"), ConnectionResetError("gone")])
async def test_a_handler_that_raises_is_counted_and_its_subscription_goes_on(
    bus: Bus, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    inbox = Inbox()

    async def handle(message: Message, delivery: Delivery) -> None:
        if message == Describe():
            raise error
        await inbox.receive(message, delivery)

    await bus.subscribe("test.raising", handle)
    await bus.publish("test.raising", Describe())
    await bus.publish("test.raising", Abort(GATEWAY, 1))
    assert await inbox.next() == Abort(GATEWAY, 1)
    assert counted(registry, "handler_errors") == 1
    failure = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert failure.message == "the handler of a message on test.raising failed"
    assert failure.exc_info is not None
    assert failure.exc_info[1] is error


async def test_a_job_that_nobody_listens_for_comes_back_by_its_key(bus: Bus) -> None:
    unreachable: asyncio.Queue[int] = asyncio.Queue()
    await bus.watch_unreachable(unreachable.put_nowait)
    key = 0xFEDCBA9876543210
    assert await bus.send_job("test.nobody", Describe(), key)
    assert await asyncio.wait_for(unreachable.get(), 10) == key


async def test_a_job_that_somebody_takes_does_not_come_back(bus: Bus, other_bus: Bus) -> None:
    unreachable: asyncio.Queue[int] = asyncio.Queue()
    inbox = Inbox()
    await bus.watch_unreachable(unreachable.put_nowait)
    await other_bus.subscribe("test.somebody", inbox.receive)
    await other_bus.flush()
    await bus.send_job("test.somebody", Describe(), 1)
    await bus.send_job("test.nobody", Describe(), 2)
    assert await inbox.next() == Describe()
    assert await asyncio.wait_for(unreachable.get(), 10) == 2
    assert unreachable.empty()


async def test_a_request_gets_its_answer(bus: Bus, other_bus: Bus) -> None:
    async def answer(_: Message, delivery: Delivery) -> None:
        await other_bus.publish(delivery.reply_to, Description(settings={"port": 1}))

    await other_bus.subscribe("test.question", answer)
    await other_bus.flush()
    assert await bus.request("test.question", Describe(), 10) == Description(settings={"port": 1})


async def test_a_request_that_nobody_listens_for_says_so_at_once(bus: Bus) -> None:
    with pytest.raises(NoReplyError, match=r"nobody listens on test\.nobody") as caught:
        await bus.request("test.nobody", Describe(), 600)
    assert caught.value.is_unreachable


async def test_a_request_that_is_not_answered_in_time_says_so(bus: Bus, other_bus: Bus) -> None:
    await other_bus.subscribe("test.silent", Inbox().receive)
    await other_bus.flush()
    with pytest.raises(NoReplyError, match=r"no reply in time on test\.silent") as caught:
        await bus.request("test.silent", Describe(), 0.05)
    assert not caught.value.is_unreachable


def message_of_size(size: int) -> Detokenize:
    rest = len(encode(Detokenize(token_ids=(b"x" * 100_000,)))) - 100_000
    message = Detokenize(token_ids=(b"x" * (size - rest),))
    assert len(encode(message)) == size
    return message


async def test_a_message_above_max_payload_is_refused_with_both_numbers(bus: Bus) -> None:
    limit = bus.max_payload
    for send in (
        bus.publish("test.large", message_of_size(limit + 1)),
        bus.send_job("test.large", message_of_size(limit + 1), 1),
        bus.request("test.large", message_of_size(limit + 1), 1),
    ):
        with pytest.raises(MessageTooLargeError, match=f"{limit + 1} bytes.* {limit} bytes") as caught:
            await send
        assert (caught.value.size, caught.value.limit) == (limit + 1, limit)


async def test_the_largest_message_arrives(bus: Bus) -> None:
    inbox = Inbox()
    await bus.subscribe("test.largest", inbox.receive)
    assert await bus.publish("test.largest", message_of_size(bus.max_payload))
    assert isinstance(await inbox.next(), Detokenize)


async def test_headers_count_towards_max_payload(bus: Bus) -> None:
    inbox = Inbox()
    await bus.subscribe("test.headers.large", inbox.receive)
    headers = {"traceparent": TRACEPARENT, "tracestate": ""}
    frame = len(f"NATS/1.0\r\ntraceparent: {TRACEPARENT}\r\ntracestate: \r\n\r\n")
    fits = message_of_size(bus.max_payload - frame)
    assert await bus.publish_encoded("test.headers.large", encode(fits), headers=headers)
    assert await inbox.next() == fits
    with pytest.raises(MessageTooLargeError):
        await bus.publish_encoded(
            "test.headers.large", encode(message_of_size(bus.max_payload - frame + 1)), headers=headers
        )


async def test_without_a_server_connecting_names_the_url_but_no_password() -> None:
    options = BusOptions(url="nats://user:sesame@127.0.0.1:1", connect_timeout_s=0.3)
    with pytest.raises(ConnectionError, match=r"nats://127\.0\.0\.1:1 within 0\.3 s") as caught:
        await Bus.connect(options, "test", BusMetrics(CollectorRegistry()))
    assert "sesame" not in str(caught.value)


async def test_closing_sends_what_was_published(nats_url: str, bus: Bus) -> None:
    inbox = Inbox()
    await bus.subscribe("test.close", inbox.receive)
    await bus.flush()
    leaving = await connect(nats_url)
    await leaving.publish("test.close", BatchAck(Peer("a", 1), Peer("b", 1), 7))
    await leaving.close()
    assert await inbox.next() == BatchAck(Peer("a", 1), Peer("b", 1), 7)
    assert not await leaving.publish("test.close", Describe())
