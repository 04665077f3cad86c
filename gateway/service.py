"""The story of the gateway: HTTP requests go in as jobs to the other stages and come out as text, exactly once each."""

import asyncio
import logging
from contextlib import suppress

from gateway.admission import Admission
from gateway.asking import Asking
from gateway.errors import RequestError
from gateway.http.api_keys import ApiKeys
from gateway.http.app import create_app
from gateway.http.context import Gateway
from gateway.http.server import HttpServer
from gateway.inflight.pipeline import Pipeline
from gateway.inflight.spans import CallSpans
from gateway.metrics import GatewayMetrics
from gateway.settings import GatewaySettings
from wire import subjects
from wire.bus import Delivery
from wire.codec import WIRE_LEVEL
from wire.logs import STATE_LOG
from wire.messages import Describe, Description, Heartbeat, Message, Stage
from wire.node import Node
from wire.presence import Member
from wire.settings import CommonSettings, public_values

log = logging.getLogger(__name__)
state_log = logging.getLogger(STATE_LOG)

_LONGEST_LOOK_AROUND_S = 2.0


class GatewayService:
    """Holds the clients. Everything else in the system may die and come back while they wait."""

    def __init__(self, node: Node, common: CommonSettings, settings: GatewaySettings, api_keys: ApiKeys) -> None:
        self._node = node
        self._common = common
        self._settings = settings
        metrics = GatewayMetrics(node.registry, settings.model_name, node.members)
        self._pipeline = Pipeline(node, metrics, settings.resume_timeout, is_recovering=not settings.disable_recovery)
        admission = Admission(node, self._pipeline, settings.max_queued_requests)
        asking, spans = Asking(node), CallSpans(node.tracing)
        gateway = Gateway(node, settings, metrics, self._pipeline, admission, asking, spans)
        self._server = HttpServer(create_app(gateway, api_keys), settings, metrics)
        self._presence = node.presence(self._describe)
        self.is_complete = asyncio.Event()  # every stage has been seen ready

    @property
    def url(self) -> str:
        """Where the clients connect."""
        return self._server.url

    async def start(self) -> None:
        """Subscribes, joins the others, and opens the door."""
        await self._pipeline.start()
        self._node.members.on_joined.append(self._on_joined)
        await self._node.data.subscribe(self._rpc_subject(), self._on_question)
        await self._presence.start()
        if self._settings.listen_fd is not None:  # others accept there: who knows no worker yet would refuse theirs
            with suppress(TimeoutError):
                await asyncio.wait_for(self.is_complete.wait(), _LONGEST_LOOK_AROUND_S)
        self._server.start(self._node.background)
        log.info("Serving on %s", self.url)

    async def announce(self) -> None:
        """A heartbeat now."""
        await self._presence.announce()

    async def drain(self) -> None:
        """Finishes what it holds, since clients cannot be handed over. What they still send on open connections is
        served too, and each answer says that it is the connection's last."""
        try:
            async with asyncio.timeout(self._common.drain_timeout):
                await self._server.drain()
        except TimeoutError:
            log.warning("%d requests are not finished after the drain timeout", len(self._pipeline.in_flight))
            await self._pipeline.fail_all(RequestError(503, "The server is shutting down.", code="draining"))

    async def close(self) -> None:
        """Closes the door and lets go of everything."""
        await self._server.stop()
        await self._node.background.stop()
        await self._node.close()

    def _describe(self) -> Heartbeat:
        return Heartbeat(
            stage=Stage.GATEWAY,
            peer=self._node.instance.peer,
            state=self._node.instance.state,
            served_model_name=self._settings.model_name,
            wire_level=WIRE_LEVEL,
            num_running=len(self._pipeline.in_flight),
        )

    def _rpc_subject(self) -> str:
        return subjects.rpc(self._node.instance.model_key, Stage.GATEWAY, self._node.instance.instance_id)

    async def _on_question(self, message: Message, delivery: Delivery) -> None:
        if isinstance(message, Describe) and delivery.reply_to:
            description = Description(settings=public_values(self._settings))
            await self._node.data.publish(delivery.reply_to, description)

    def _on_joined(self, _: Member) -> None:
        if not self.is_complete.is_set() and not self._pipeline.dispatcher.missing_stage():
            self.is_complete.set()
            state_log.info("The server is fired up and ready to roll! %s", self.url)
