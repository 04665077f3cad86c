"""The life of one process: connect, ready, drain on SIGTERM, leave. The same for every stage."""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

import uvloop

from wire import subjects
from wire.background import BackgroundTasks
from wire.checkpoint import CheckpointError
from wire.logs import STATE_LOG
from wire.messages import InstanceState, Peer, Stage

log = logging.getLogger(__name__)
state_log = logging.getLogger(STATE_LOG)

_LEAVE_S = 5.0


@dataclass(slots=True, eq=False)
class Instance:
    """Who this process is. `epoch` is as in `Peer`; `state` changes by `serve` alone."""

    stage: Stage
    served_model_name: str
    instance_id: str = ""
    epoch: int = 1
    state: InstanceState = InstanceState.STARTING
    started_ns: int = field(default_factory=time.time_ns)

    def __post_init__(self) -> None:
        self.instance_id = self.instance_id or subjects.new_instance_id(self.stage)

    @property
    def peer(self) -> Peer:
        """This life of this process."""
        return Peer(self.instance_id, self.epoch)

    @property
    def model_key(self) -> str:
        """The part of a subject that names the served model."""
        return subjects.model_key(self.served_model_name)


class Service(Protocol):
    """What a stage does between its first and its last breath."""

    async def start(self) -> None:
        """Subscribes and loads; on return the instance can work."""

    async def announce(self) -> None:
        """Tells the others of a change of state."""

    async def drain(self) -> None:
        """Takes no new work; finishes what it holds, or hands it back, within the service's own timeout."""

    async def close(self) -> None:
        """Lets go of everything."""


async def serve(
    instance: Instance, service: Service, background: BackgroundTasks, *, exit_on_stdin_eof: bool = False
) -> None:
    """Runs a service until SIGTERM or SIGINT, then drains it. A second signal ends the process at once.

    If one of the background tasks fails, the service is closed without a drain, and the error is raised. With
    `exit_on_stdin_eof` the end of standard input counts as SIGTERM, so that a parent's death is noticed.
    """
    stop = _stop_on_signals(exit_on_stdin_eof)
    try:
        await background.guard(_live(instance, service, stop))
    finally:
        await service.close()


async def _live(instance: Instance, service: Service, stop: asyncio.Event) -> None:
    if await _is_started(service, stop):
        await _enter(instance, service, InstanceState.READY)
        await stop.wait()
        await _enter(instance, service, InstanceState.DRAINING)
        await service.drain()
        await _enter(instance, service, InstanceState.LEAVING)


async def _is_started(service: Service, stop: asyncio.Event) -> bool:
    """Starts the service; False if it was told to stop before it was ready, and has given up."""
    starting = asyncio.ensure_future(service.start())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        has_ended = starting.done()
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
    if has_ended:
        starting.result()
    return has_ended


async def _enter(instance: Instance, service: Service, state: InstanceState) -> None:
    instance.state = state
    await service.announce()
    state_log.info("%s is %s", instance.instance_id, state.value)


def _stop_on_signals(exit_on_stdin_eof: bool) -> asyncio.Event:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def request_stop() -> None:
        if stop.is_set():
            log.warning("second signal: leaving without draining")
            os._exit(1)  # nothing may hold it up, neither a task nor a thread
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, request_stop)
    if exit_on_stdin_eof:
        loop.add_reader(sys.stdin.fileno(), _stop_at_eof(loop, stop))
    return stop


def _stop_at_eof(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> Callable[[], None]:
    descriptor = sys.stdin.fileno()

    def on_readable() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            stop.set()

    return on_readable


async def _to_the_end(main: Coroutine[Any, Any, None]) -> None:
    """Whatever is left after `main`, such as a task of a library that swallows its cancellation, has seconds to end."""
    status = 1
    try:
        await main
        status = 0
    finally:
        watchdog = threading.Timer(_LEAVE_S, os._exit, (status,))
        watchdog.daemon = True
        watchdog.start()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a stage's main coroutine on uvloop; no broker or no model is one line and exit status 1."""
    try:
        uvloop.run(_to_the_end(main))
    except (ConnectionError, CheckpointError) as error:
        log.error("%s", error)  # the message says it all
        sys.exit(1)
