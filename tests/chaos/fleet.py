"""Two of everything on a broker that can be restarted, and what can be done to it."""

import asyncio
import re
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.chaos.clients import Client
from tests.chaos.link import Link, Links
from tests.pipeline.process import LoggedProcess
from tests.pipeline.system import StageInstance, System
from tests.unit.wire.broker import Broker
from wire.messages import Stage

HEARTBEAT_TIMEOUT_S = 2.0
BROKER_DOWNTIME_S = 1.0
INSTANCES_PER_STAGE = 2

_SETTINGS: dict[Stage, dict[str, object]] = {
    Stage.GATEWAY: {"incremental_streaming_output": True, "drain_timeout": 60},
    Stage.TOKENIZER: {"drain_timeout": 2},
    Stage.WORKER: {"dtype": "float64", "drain_timeout": 2},
    Stage.DETOKENIZER: {"drain_timeout": 2},
}
_POLL_S = 0.05
_ENOUGH_S = 60.0
_SERIES = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)

Series = dict[tuple[str, str], float]


class Fleet(System):
    """A system whose every instance has a page of metrics, and reaches the broker over a link."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(
            broker.url, {stage: {"heartbeat_timeout": HEARTBEAT_TIMEOUT_S} | _SETTINGS[stage] for stage in Stage}
        )
        self.broker = broker
        self._links = Links()
        self._link_of: dict[int, Link] = {}
        self._metrics_url: dict[int, str] = {}
        self._clients: dict[str, Client] = {}
        self._absent: set[str] = set()  # stopped, cut off or leaving: they run, but nobody can use them

    def launch(self, stage: Stage, *, inherited_fds: Sequence[int] = (), **settings: object) -> LoggedProcess:
        """Starts an instance, and does not wait for it."""
        port = _free_port()
        broker_port = urlsplit(self.nats_url).port
        assert broker_port is not None
        link = self._links.open(broker_port)
        given = {"metrics_port": port, "nats_url": link.url} | settings
        process = super().launch(stage, inherited_fds=inherited_fds, **given)
        self._metrics_url[process.popen.pid] = f"http://127.0.0.1:{port}/metrics"
        self._link_of[process.popen.pid] = link
        return process

    def close(self) -> None:
        """Ends every process and link."""
        super().close()
        self._links.close()

    def present(self, stage: Stage) -> list[StageInstance]:
        """The running instances that others can see, oldest first."""
        return [instance for instance in self.of(stage) if instance.instance_id not in self._absent]

    async def replenish(self, stages: Iterable[Stage] = Stage) -> None:
        """Starts what is missing; returns when every gateway knows."""
        missing = {stage: INSTANCES_PER_STAGE - len(self.of(stage)) for stage in stages}
        launched = [(stage, self.launch(stage)) for stage, count in missing.items() for _ in range(count)]
        for stage, process in launched:
            await asyncio.to_thread(self.joined, stage, process)
        await self.until_known()

    async def until_known(self) -> None:
        """Returns when every gateway that can be seen sees exactly the instances that can be seen, ready."""
        deadline = time.monotonic() + _ENOUGH_S
        while unlike := await self._unlike():
            assert time.monotonic() < deadline, unlike
            await asyncio.sleep(_POLL_S)  # a gateway's table has no event to wait for from outside

    async def _unlike(self) -> str:
        """What some gateway sees and should not, or the other way round; nothing if all see what there is."""
        for gateway in self.present(Stage.GATEWAY):
            try:
                seen = await self._seen_by(gateway)
            except httpx.TransportError as error:  # another fault has fallen meanwhile
                return f"{gateway.instance_id}: {error!r}"
            if seen != (expected := self.instance_ids - self._absent):
                return f"{gateway.instance_id} sees {seen}, expected {expected}"
        return ""

    async def _seen_by(self, gateway: StageInstance) -> set[str]:
        async with httpx.AsyncClient(timeout=20) as client:
            response = await client.get(f"{self.url_of(gateway)}/server_info")
        return {i["peer"][0] for i in response.json()["instances"] if i["state"] == "ready"}

    def client(self, gateway: StageInstance) -> Client:
        """A client of this gateway, for this event loop's life."""
        if gateway.instance_id not in self._clients:
            self._clients[gateway.instance_id] = Client(self.url_of(gateway), self.headers)
        return self._clients[gateway.instance_id]

    async def close_clients(self) -> None:
        """To be called before the event loop ends."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    def kill(self, instance: StageInstance) -> None:
        """SIGKILL."""
        instance.process.popen.kill()
        instance.process.popen.wait()

    def drain(self, instance: StageInstance) -> None:
        """SIGTERM: it finishes or hands over what it holds, and leaves."""
        self._absent.add(instance.instance_id)
        instance.process.popen.terminate()

    def pause(self, instance: StageInstance) -> None:
        """SIGSTOP: it hangs, with its connections open."""
        self._absent.add(instance.instance_id)
        instance.process.popen.send_signal(signal.SIGSTOP)

    def resume(self, instance: StageInstance) -> None:
        """SIGCONT."""
        instance.process.popen.send_signal(signal.SIGCONT)
        self._absent.discard(instance.instance_id)

    def freeze_link(self, instance: StageInstance) -> None:
        """Nothing passes between this instance and the broker, and nobody is told."""
        self._absent.add(instance.instance_id)
        self._links.run(self._link_of[instance.process.popen.pid].freeze())

    def cut_link(self, instance: StageInstance) -> None:
        """This instance loses its connections to the broker, and gets no new ones."""
        self._absent.add(instance.instance_id)
        self._links.run(self._link_of[instance.process.popen.pid].cut())

    def heal_link(self, instance: StageInstance) -> None:
        """The instance reaches the broker again."""
        self._links.run(self._link_of[instance.process.popen.pid].heal())
        self._absent.discard(instance.instance_id)

    async def series(self, instance: StageInstance) -> Series:
        """Every metric of one instance, by name and labels."""
        async with httpx.AsyncClient(timeout=20) as client:
            page = (await client.get(self._metrics_url[instance.process.popen.pid])).text
        return {(name, labels): float(value) for name, labels, value in _SERIES.findall(page)}

    async def total(self, stage: Stage, name: str) -> float:
        """A metric summed over the instances of a stage that can be seen, and over its labels."""
        pages = [await self.series(instance) for instance in self.present(stage)]
        return sum(value for page in pages for (series, _), value in page.items() if series == name)

    async def num_prompt_tokens_taken(self) -> float:
        """Prompt tokens that workers have computed or found in their caches: what a repeated prefill raises."""
        computed = await self.total(Stage.WORKER, "millrace_worker_prefill_tokens_total")
        return computed + await self.total(Stage.WORKER, "millrace_worker_cached_tokens_total")

    async def busiest(self, stage: Stage) -> StageInstance:
        """The instance that has most to do, so that its loss is one."""
        present = self.present(stage)
        loads = await asyncio.to_thread(self._loads, {instance.instance_id for instance in present})
        return max(present, key=lambda instance: loads[instance.instance_id])

    def _loads(self, instance_ids: set[str]) -> dict[str, int]:
        loads: dict[str, int] = {}
        self.observer.wait_until(
            lambda beats: (
                not loads.update({i: beats[i].num_running for i in instance_ids & beats.keys()})
                and loads.keys() == instance_ids
            ),
            f"{sorted(instance_ids)} have told their load",
        )
        return loads


@contextmanager
def running_fleet(folder: Path) -> Iterator[Fleet]:
    """Two of everything, known to each other."""
    with ExitStack() as stack:
        broker = Broker(folder)
        broker.start()
        stack.callback(broker.stop)
        fleet = Fleet(broker)
        stack.callback(fleet.close)
        fleet.start(dict.fromkeys(Stage, INSTANCES_PER_STAGE))
        yield fleet


def label(labels: str, name: str) -> str:
    """The value of one of a series' labels, which are written as on the page."""
    found = re.search(rf'\b{name}="([^"]*)"', labels)
    return found[1] if found else ""


def _free_port() -> int:
    """One that was free a moment ago: the stages' pages have no way to tell which they would pick."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
