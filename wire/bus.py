"""The one place that knows NATS: typed publish, subscribe and request over core NATS.

Delivery is at most once. Nothing is buffered while the connection is down: what a dead connection would have carried
is sent again by recovery, not by a queue that nobody bounds.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, NoRespondersError, SlowConsumerError
from nats.errors import TimeoutError as NatsTimeoutError

from wire.codec import UndecodableMessageError, decode, encode
from wire.messages import Message
from wire.metrics import BusMetrics

log = logging.getLogger(__name__)

_PENDING_BYTES_LIMIT = 512 * 2**20  # the flow control of the batches binds long before this
_PENDING_MSGS_LIMIT = 2**20
_NO_RESPONDERS = "503"


class BusOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the broker. `url` may be a comma-separated list; credentials are used where given."""

    url: str
    user: str = ""
    password: str = ""
    credentials_file: str = ""
    nkey_seed_file: str = ""
    tls_ca_file: str = ""
    connect_timeout_s: float = 30.0
    ping_interval_s: float = 1.0


class MessageTooLargeError(Exception):
    """A message exceeds the broker's `max_payload`; both in bytes."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the message has {size} bytes, the broker's max_payload is {limit} bytes")
        self.size = size
        self.limit = limit


class NoReplyError(Exception):
    """A request found nobody (`is_unreachable`), or no answer in time."""

    def __init__(self, subject: str, *, is_unreachable: bool) -> None:
        super().__init__(f"{'nobody listens' if is_unreachable else 'no reply in time'} on {subject}")
        self.is_unreachable = is_unreachable


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came with a message: its headers, and the subject to reply to."""

    headers: dict[str, str] = field(default_factory=dict)
    reply_to: str = ""


Handler = Callable[[Message, Delivery], Awaitable[None]]


class Bus:
    """One connection. The handler of a subscription gets its messages one after another, in order of arrival."""

    def __init__(self, client: Client, metrics: BusMetrics) -> None:
        self._client = client
        self._metrics = metrics
        self._seen_errors: set[str] = set()
        self._connection_listeners: list[Callable[[bool], None]] = []
        self._unreachable_inbox = ""

    @classmethod
    async def connect(cls, options: BusOptions, name: str, metrics: BusMetrics) -> "Bus":
        """Connects, retrying for `connect_timeout_s`; after that raises ConnectionError with the URL."""
        bus = cls(Client(), metrics)
        try:
            async with asyncio.timeout(options.connect_timeout_s):
                await bus._client.connect(
                    servers=options.url.split(","),
                    name=name,
                    error_cb=bus._on_error,
                    disconnected_cb=bus._on_disconnected,
                    reconnected_cb=bus._on_reconnected,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.1,  # type: ignore[arg-type]  # seconds, whatever the annotation says
                    ping_interval=options.ping_interval_s,  # type: ignore[arg-type]
                    max_outstanding_pings=2,
                    skip_subject_validation=True,  # every subject is made from validated parts by `wire.subjects`
                    **_credentials(options),
                )
        except TimeoutError as error:
            raise ConnectionError(f"no NATS server at {options.url} within {options.connect_timeout_s:g} s") from error
        return bus

    @property
    def is_connected(self) -> bool:
        """False while the broker is away."""
        return self._client.is_connected

    @property
    def max_payload(self) -> int:
        """The broker's limit for one message, in bytes."""
        return self._client.max_payload

    def on_connection_change(self, listener: Callable[[bool], None]) -> None:
        """Calls `listener` with False when the connection is lost, with True when it is back."""
        self._connection_listeners.append(listener)

    async def subscribe(self, subject: str, handler: Handler) -> None:
        """Hands every message on `subject` to `handler`; what does not decode is counted and logged once per kind."""

        async def receive(raw: Msg) -> None:
            try:
                message = decode(raw.data)
            except UndecodableMessageError as error:
                self._metrics.undecodable.inc()
                self._log_once(f"undecodable message on {subject}: {error}")
                return
            await handler(message, Delivery(raw.headers or {}, raw.reply))

        await self._client.subscribe(
            subject,
            cb=receive,
            pending_msgs_limit=_PENDING_MSGS_LIMIT,
            pending_bytes_limit=_PENDING_BYTES_LIMIT,
        )

    async def publish(self, subject: str, message: Message) -> bool:
        """Sends without waiting; False if the connection is down. Raises `MessageTooLargeError`."""
        return await self.publish_encoded(subject, encode(message))

    async def publish_encoded(
        self, subject: str, payload: bytes, reply_to: str = "", headers: dict[str, str] | None = None
    ) -> bool:
        """`publish` for a sender that has the bytes already, because it counts or splits them."""
        if len(payload) > self._client.max_payload:
            raise MessageTooLargeError(len(payload), self._client.max_payload)
        if not self._client.is_connected:
            self._metrics.discarded.inc()
            return False
        await self._client.publish(subject, payload, reply=reply_to, headers=headers)
        return True

    async def watch_unreachable(self, handler: Callable[[int], None]) -> None:
        """Calls `handler` with the key of a `send_job` whose subject nobody listens on (about 0.2 ms later)."""
        self._unreachable_inbox = self._client.new_inbox()

        async def receive(raw: Msg) -> None:
            if (raw.headers or {}).get("Status") == _NO_RESPONDERS:
                handler(int(raw.subject.rpartition(".")[2], 16))

        await self._client.subscribe(f"{self._unreachable_inbox}.*", cb=receive)

    async def send_job(self, subject: str, message: Message, key: int, headers: dict[str, str] | None = None) -> bool:
        """Publishes a job; if nobody listens on `subject`, the handler of `watch_unreachable` gets `key`."""
        reply_to = f"{self._unreachable_inbox}.{key:x}"
        return await self.publish_encoded(subject, encode(message), reply_to, headers)

    async def request(self, subject: str, message: Message, timeout_s: float) -> Message:
        """One answer from whoever listens on `subject`; raises `NoReplyError` or `UndecodableMessageError`."""
        try:
            reply = await self._client.request(subject, encode(message), timeout=timeout_s)
        except NoRespondersError as error:
            raise NoReplyError(subject, is_unreachable=True) from error
        except (NatsTimeoutError, ConnectionClosedError) as error:
            raise NoReplyError(subject, is_unreachable=False) from error
        return decode(reply.data)

    async def flush(self) -> None:
        """Returns when the broker has seen everything published and subscribed so far."""
        if self._client.is_connected:
            await self._client.flush()

    async def close(self) -> None:
        """Sends what is pending and closes the connection."""
        if self._client.is_connected:
            await self._client.flush()
        await self._client.close()

    async def _on_error(self, error: Exception) -> None:
        if isinstance(error, SlowConsumerError):
            self._metrics.slow_consumer.inc()
            self._log_once(f"messages dropped, a subscription is behind: {error.subject}")
        elif isinstance(error, OSError | NatsTimeoutError | ConnectionClosedError) or not self.is_connected:
            self._log_once(f"NATS connection: {error}")
        else:
            self._metrics.handler_errors.inc()
            log.error("a message handler failed", exc_info=error)

    async def _on_disconnected(self) -> None:
        if not self._client.is_closed:
            log.warning("lost the connection to NATS")
        self._notify(is_connected=False)

    async def _on_reconnected(self) -> None:
        self._metrics.reconnects.inc()
        log.info("connected to NATS again")
        self._seen_errors.clear()
        self._notify(is_connected=True)

    def _notify(self, *, is_connected: bool) -> None:
        for listener in self._connection_listeners:
            listener(is_connected)

    def _log_once(self, text: str) -> None:
        if text not in self._seen_errors and len(self._seen_errors) < 1000:
            self._seen_errors.add(text)
            log.warning(text)


def _credentials(options: BusOptions) -> dict[str, Any]:
    given: dict[str, Any] = {
        "user": options.user or None,
        "password": options.password or None,
        "user_credentials": options.credentials_file or None,
        "nkeys_seed": options.nkey_seed_file or None,
    }
    if options.tls_ca_file:
        given["tls"] = ssl.create_default_context(cafile=options.tls_ca_file)
    return {name: value for name, value in given.items() if value is not None}
