"""A whole Millrace of real processes over a real nats-server, for one test or many."""

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.conftest import running_nats_server
from tests.pipeline.observer import Observer
from tests.pipeline.process import LoggedProcess, environment, python_module
from wire.messages import Stage

_MODULES = {
    Stage.GATEWAY: "gateway",
    Stage.TOKENIZER: "tokenizer_svc",
    Stage.WORKER: "gpu_worker",
    Stage.DETOKENIZER: "detokenizer_svc",
}
_STAGE_SETTINGS: dict[Stage, dict[str, object]] = {
    Stage.GATEWAY: {"port": 0},
    Stage.WORKER: {"device": "cpu", "num_threads": 1, "max_total_tokens": 65536},
}


@dataclass(frozen=True, slots=True)
class StageInstance:
    """One process of a stage, once it is ready."""

    stage: Stage
    process: LoggedProcess
    instance_id: str


class System:
    """Every stage as processes, with settings by stage."""

    def __init__(self, nats_url: str, settings: dict[Stage, dict[str, object]]) -> None:
        self.nats_url = nats_url
        self.observer = Observer(nats_url)
        self._settings = settings
        self._processes: list[LoggedProcess] = []
        self._instances: list[StageInstance] = []

    @property
    def logs(self) -> str:
        """Of every process that has been started, also of those that have ended."""
        return "\n".join(process.log for process in self._processes)

    def of(self, stage: Stage) -> list[StageInstance]:
        """The running instances of a stage, oldest first."""
        return [i for i in self._instances if i.stage is stage and i.process.is_running]

    def one(self, stage: Stage) -> StageInstance:
        """The only running instance of a stage."""
        (instance,) = self.of(stage)
        return instance

    @property
    def instance_ids(self) -> set[str]:
        """Of every running instance."""
        return {i.instance_id for i in self._instances if i.process.is_running}

    @property
    def url(self) -> str:
        """Of the oldest gateway."""
        return self.url_of(self.of(Stage.GATEWAY)[0])

    def url_of(self, gateway: StageInstance) -> str:
        """Where this gateway takes requests."""
        return gateway.process.wait_for_line(r"Serving on (http://\S+)")[1]

    @property
    def headers(self) -> dict[str, str]:
        """What a client must send along."""
        key = self._settings[Stage.GATEWAY].get("api_key")
        return {"Authorization": f"Bearer {key}"} if key else {}

    def launch(
        self, stage: Stage, *, inherited_fds: Sequence[int] = (), module: str | None = None, **settings: object
    ) -> LoggedProcess:
        """Starts an instance, and does not wait for it. `module` is a program that stands for the stage's own."""
        given = {
            "nats_url": self.nats_url,
            "exit_on_stdin_eof": True,
            **_STAGE_SETTINGS.get(stage, {}),
            **self._settings.get(stage, {}),
            **settings,
        }
        process = LoggedProcess(
            stage.value, python_module(module or _MODULES[stage]), environment(os.environ, **given), inherited_fds
        )
        self._processes.append(process)
        return process

    def joined(self, stage: Stage, process: LoggedProcess) -> StageInstance:
        """Waits until a launched process is ready."""
        found = process.wait_for_line(rf"({stage.value}-[0-9a-f]+) is ready")
        instance = StageInstance(stage, process, found[1])
        self._instances.append(instance)
        return instance

    def start(self, counts: dict[Stage, int]) -> list[StageInstance]:
        """Starts instances side by side; returns when all are ready and every gateway knows it."""
        launched = [(stage, self.launch(stage)) for stage, count in counts.items() for _ in range(count)]
        instances = [self.joined(stage, process) for stage, process in launched]
        self.wait_until_known()
        return instances

    def wait_until_known(self) -> None:
        """Returns when every gateway sees exactly the running instances, all of them ready."""
        for gateway in self.of(Stage.GATEWAY):
            _until_equal(self.instance_ids, functools.partial(_ready_members, self.url_of(gateway), self.headers))

    def wait_until_sees(self, instance_id: str) -> None:
        """Returns when the oldest gateway sees this instance ready, whoever started it."""

        def seen() -> set[str]:
            return _ready_members(self.url, self.headers) & {instance_id}

        _until_equal({instance_id}, seen)

    def at_rest(self) -> None:
        """Returns when no instance holds anything of any request."""
        self.observer.wait_for_rest(self.instance_ids)

    def metrics(self, name: str) -> dict[str, float]:
        """The values of a metric of the oldest gateway, by labels as they are written."""
        page = requests.get(f"{self.url}/metrics", timeout=20).text
        values = {}
        for line in page.splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name:
                values[series.removeprefix(name)] = float(value)
        return values

    def close(self) -> None:
        """Ends every process."""
        for process in self._processes:
            process.end()
        self.observer.close()


@contextmanager
def running_system(
    folder: Path,
    *,
    gateways: int = 1,
    tokenizers: int = 1,
    workers: int = 1,
    detokenizers: int = 1,
    nats_url: str | None = None,
    common: dict[str, object] | None = None,
    **stage_settings: dict[str, object],
) -> Iterator[System]:
    """A system on a broker of its own, unless one is given.

    `common` are settings of every stage; `worker={"dtype": "float64"}` and the like are settings of one.
    """
    settings = {stage: (common or {}) | stage_settings.get(stage.value, {}) for stage in Stage}
    with ExitStack() as stack:
        system = System(nats_url or stack.enter_context(running_nats_server(folder)), settings)
        stack.callback(system.close)
        system.start(
            {
                Stage.WORKER: workers,
                Stage.TOKENIZER: tokenizers,
                Stage.DETOKENIZER: detokenizers,
                Stage.GATEWAY: gateways,
            }
        )
        yield system


def _ready_members(url: str, headers: dict[str, str]) -> set[str]:
    response = requests.get(f"{url}/server_info", headers=headers, timeout=20)
    instances: list[dict[str, Any]] = response.json()["instances"]
    return {instance["peer"][0] for instance in instances if instance["state"] == "ready"}


def _until_equal(expected: set[str], get: Callable[[], set[str]], timeout_s: float = 60.0) -> None:
    """A gateway's table has no event to wait for from outside: asks again until the deadline."""
    deadline = time.monotonic() + timeout_s
    while (seen := get()) != expected:
        assert time.monotonic() < deadline, f"seen {sorted(seen)}, expected {sorted(expected)}"
