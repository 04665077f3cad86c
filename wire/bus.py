"""The one place that knows NATS: typed publish, subscribe and request over core NATS.

Delivery is at most once. Nothing is buffered while the connection is down: what a dead connection would have carried
is sent again by recovery, not by a queue that nobody bounds.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, NoRespondersError, SlowConsumerError
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from wire.codec import UndecodableMessageError, decode, encode
from wire.login import BusOptions, login
from wire.messages import Message
from wire.metrics import BusMetrics

log = logging.getLogger(__name__)

_PENDING_BYTES_LIMIT = 512 * 2**20  # the flow control of the batches binds long before this
_PENDING_MSGS_LIMIT = 2**20
_NO_RESPONDERS = "503"
_HEADERS_FRAME = len(b"NATS/1.0\r\n\r\n")
_HEADER_FRAME = len(b": \r\n")
_REOPEN_WAIT_S = 0.5
_LAST_WORDS_S = 2.0
_MOST_KINDS = 1000


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


class HandlerError(Exception):
    """A message handler raised; the cause says what. Counted and logged, and the subscription goes on."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came with a message: its headers, and the subject to reply to."""

    headers: dict[str, str] = field(default_factory=dict)
    reply_to: str = ""


Handler = Callable[[Message, Delivery], Awaitable[None]]


class Bus:
    """One connection. The handler of a subscription gets its messages one after another, in order of arrival."""

    def __init__(self, options: BusOptions, name: str, metrics: BusMetrics) -> None:
        """Not connected yet; `connect` makes one that is."""
        self._client: Client = _TlsKeepingClient()
        self._options = options
        self._login = login(options)
        self._name = name
        self._metrics = metrics
        self._seen_errors: set[str] = set()
        self._connection_listeners: list[Callable[[bool], None]] = []
        self._subscriptions: list[tuple[str, Callable[[Msg], Awaitable[None]]]] = []
        self._unreachable_inbox = ""
        self._is_closing = False
        self._reopening: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, options: BusOptions, name: str, metrics: BusMetrics) -> "Bus":
        """Connects, retrying for `connect_timeout_s`; after that raises ConnectionError with the URL.

        A file of the options that cannot be used is a ConnectionError at once.
        """
        bus = cls(options, name, metrics)
        try:
            async with asyncio.timeout(options.connect_timeout_s):
                await bus._open()
        except (TimeoutError, NatsError, OSError) as error:
            cause = bus._client.last_error or error
            await bus.close()
            where = re.sub(r"//[^@/,]*@", "//", options.url)  # a URL may hold a password
            raise ConnectionError(
                f"no connection to NATS at {where} within {options.connect_timeout_s:g} s: {cause}"
            ) from error
        return bus

    async def _open(self) -> None:
        await self._client.connect(
            servers=self._options.url.split(","),
            name=self._name,
            inbox_prefix=self._options.inbox_prefix,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,  # type: ignore[arg-type]  # seconds, whatever the annotation says
            ping_interval=self._options.ping_interval_s,  # type: ignore[arg-type]
            max_outstanding_pings=2,
            skip_subject_validation=True,  # every subject is made from validated parts by `wire.subjects`
            **self._login,
        )

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
                self._log_once(f"undecodable message on {subject}: {error}", kind=f"undecodable {subject}")
                return
            try:
                await handler(message, Delivery(raw.headers or {}, raw.reply))
            except Exception as error:
                raise HandlerError(subject) from error

        await self._subscribe_raw(subject, receive)

    async def _subscribe_raw(self, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> None:
        self._subscriptions.append((subject, receive))
        await self._attach(subject, receive)

    async def _attach(self, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> None:
        await self._client.subscribe(
            subject, cb=receive, pending_msgs_limit=_PENDING_MSGS_LIMIT, pending_bytes_limit=_PENDING_BYTES_LIMIT
        )

    async def publish(self, subject: str, message: Message) -> bool:
        """Sends without waiting; False if the connection is down. Raises `MessageTooLargeError`."""
        return await self.publish_encoded(subject, encode(message))

    async def publish_encoded(
        self, subject: str, payload: bytes, reply_to: str = "", headers: dict[str, str] | None = None
    ) -> bool:
        """`publish` for a sender that has the bytes already, because it counts or splits them."""
        self._check_size(payload, headers)
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

        await self._subscribe_raw(f"{self._unreachable_inbox}.*", receive)

    async def send_job(self, subject: str, message: Message, key: int, headers: dict[str, str] | None = None) -> bool:
        """Publishes a job; if nobody listens on `subject`, the handler of `watch_unreachable` gets `key`."""
        reply_to = f"{self._unreachable_inbox}.{key:x}"
        return await self.publish_encoded(subject, encode(message), reply_to, headers)

    async def request(self, subject: str, message: Message, timeout_s: float) -> Message:
        """One answer from whoever listens on `subject`; raises `NoReplyError` or `UndecodableMessageError`."""
        payload = encode(message)
        self._check_size(payload, None)
        if not self._client.is_connected:  # the client would keep it, and send it whenever the broker is back
            self._metrics.discarded.inc()
            raise NoReplyError(subject, is_unreachable=False)
        try:
            reply = await self._client.request(subject, payload, timeout=timeout_s)
        except NoRespondersError as error:
            raise NoReplyError(subject, is_unreachable=True) from error
        except (NatsTimeoutError, ConnectionClosedError) as error:
            raise NoReplyError(subject, is_unreachable=False) from error
        return decode(reply.data)

    async def flush(self) -> None:
        """Returns when the broker has seen everything published and subscribed so far."""
        for _ in range(2):  # the client's ping overtakes what it has not written yet; the second one cannot
            if self._client.is_connected:
                await self._client.flush()

    async def flush_last_words(self) -> None:
        """`flush` for who is about to leave: a broker that hangs must not keep it."""
        with suppress(NatsError, TimeoutError):
            await asyncio.wait_for(self.flush(), _LAST_WORDS_S)

    async def close(self) -> None:
        """Sends what is pending and closes the connection."""
        self._is_closing = True
        if self._reopening is not None:
            self._reopening.cancel()
        await self.flush_last_words()
        with suppress(NatsError, OSError):  # raised when it writes what is pending to a broker that has just died
            await self._client.close()

    def _check_size(self, payload: bytes, headers: dict[str, str] | None) -> None:
        """The broker counts headers too, and closes the connection of who exceeds its limit."""
        size = len(payload)
        if headers:
            lengths = (len(name.encode()) + len(value.encode()) + _HEADER_FRAME for name, value in headers.items())
            size += _HEADERS_FRAME + sum(lengths)
        if size > self._client.max_payload:
            raise MessageTooLargeError(size, self._client.max_payload)

    async def _on_error(self, error: Exception) -> None:
        if isinstance(error, HandlerError):
            self._metrics.handler_errors.inc()
            self._log_failure_once(error)
        elif isinstance(error, SlowConsumerError):
            self._metrics.slow_consumer.inc()
            self._log_once(f"messages dropped, a subscription is behind: {error.subject}")
        else:
            self._log_once(f"NATS connection: {error or type(error).__name__}")

    async def _on_closed(self) -> None:
        # The client gives up for good when the broker answers with an error, such as expired credentials.
        if not self._is_closing:
            self._reopening = asyncio.create_task(self._reopen())

    async def _reopen(self) -> None:
        while True:
            await asyncio.sleep(_REOPEN_WAIT_S)
            self._client = _TlsKeepingClient()
            try:
                await self._open()
                for subject, receive in self._subscriptions:
                    await self._attach(subject, receive)
                await self._client.flush()
            except (NatsError, OSError) as error:
                self._log_once(f"NATS connection: {error}")
            else:
                return await self._on_reconnected()

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

    def _log_failure_once(self, error: HandlerError) -> None:
        """One trace per subject and kind of failure: whoever sends nonsense must not fill the disk. All are counted."""
        cause = error.__cause__
        if self._is_new(f"{error} {type(cause).__name__}"):
            log.error("the handler of a message on %s failed", error, exc_info=cause)

    def _log_once(self, text: str, kind: str = "") -> None:
        if self._is_new(kind or text):
            log.warning(text)

    def _is_new(self, kind: str) -> bool:
        if kind in self._seen_errors or len(self._seen_errors) >= _MOST_KINDS:
            return False
        self._seen_errors.add(kind)
        return True


class _TlsKeepingClient(Client):
    """Refuses to log in unencrypted where TLS was asked for; nats-py leaves that to whoever answers."""

    def _connect_command(self) -> bytes:
        if "tls" in self.options and not self._server_info.get("tls_required"):
            raise NatsError("TLS was asked for, and the server does not require it")
        return super()._connect_command()
