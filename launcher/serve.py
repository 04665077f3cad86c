"""`millrace serve`: NATS and every stage on this machine, from one command to Ctrl-C.

SIGUSR1 replaces every instance, one after the other. SIGHUP is no reload: it says that the terminal is gone.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import uvloop

from launcher.embedded_nats import NAME as NATS
from launcher.embedded_nats import EmbeddedNats
from launcher.gpus import visible_gpus
from launcher.instances import Instance, plan_tiers, without_our_variables
from launcher.keeper import GaveUpError, Keeper, kept
from launcher.logs import Terminal, TerminalHandler, wants_colour
from launcher.nats import NatsServerMissingError
from launcher.options import ServeOptions, read_options
from launcher.output import OutputLine
from launcher.stages import STAGES, MissingExtraError
from launcher.supervisor import Supervisor
from launcher.trace_console import TraceConsole

log = logging.getLogger(__name__)

_NAME_WIDTH = len("detokenizer-0")
_STOP_MARGIN_S = 5.0


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs until Ctrl-C or SIGTERM; 0 after a stop, 1 if something does not start or a second signal cuts it short."""
    options = read_options(argv, environ)
    terminal = Terminal(sys.stdout, is_coloured=wants_colour(sys.stdout, environ), name_width=_NAME_WIDTH)
    _log_to(terminal, options.common.log_level)
    try:
        for program in STAGES:
            program.require_installed()
        _require_folder(options.worker.model_path)
        with _bound_socket(options) as listener:
            was_killed = uvloop.run(_Serving(options, environ, terminal, listener).run())
    except (GaveUpError, MissingExtraError, NatsServerMissingError, OSError) as error:
        log.error("%s", error)  # the message says it all
        return 1
    return 1 if was_killed else 0


def _log_to(terminal: Terminal, level: str) -> None:
    handler = TerminalHandler(terminal)
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _require_folder(model_path: str) -> None:
    """What is plainly a path must be there; every stage would say so too, a dozen seconds later."""
    if model_path.startswith(("/", ".", "~")) and not Path(model_path).expanduser().is_dir():
        raise FileNotFoundError(f"no model folder {model_path}")


def _bound_socket(options: ServeOptions) -> socket.socket:
    """The socket that every gateway listens on, so that they share a port, and one's restart refuses no client."""
    host, port = options.gateway.host, options.gateway.port
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return bound


class _Serving:
    """One run of the whole pipeline."""

    def __init__(
        self, options: ServeOptions, environ: Mapping[str, str], terminal: Terminal, listener: socket.socket
    ) -> None:
        self._options = options
        self._environ = environ
        self._terminal = terminal
        self._listener = listener
        self._common = options.common

    async def run(self) -> bool:
        """Starts what is asked for, waits for the end, leaves nothing behind. True if it had to be killed."""
        for warning in self._options.ignored_flags:
            log.warning("%s", warning)
        needs_gpus = self._options.serve.workers > 1 and self._options.worker.device != "cpu"
        gpus = await asyncio.to_thread(visible_gpus, self._environ) if needs_gpus else []
        tiers = plan_tiers(self._options, self._listener.fileno(), gpus)
        keepers = [[self._keeper(instance) for instance in tier] for tier in tiers]
        supervisor = Supervisor(keepers, self._options.common.drain_timeout + _STOP_MARGIN_S)
        _stop_on_signals(supervisor.request_stop, watch_stdin=self._options.common.exit_on_stdin_eof)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, supervisor.request_restart)
        async with AsyncExitStack() as stack:
            if self._options.has_own_nats:
                await self._start_nats(stack)
            if self._options.serve.trace_console:
                await self._start_trace_console(stack)
            announcing = asyncio.create_task(self._announce(supervisor))
            stack.callback(announcing.cancel)
            await supervisor.run()
        return supervisor.was_killed

    async def _start_nats(self, stack: AsyncExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="millrace-")))
        nats = EmbeddedNats(folder, without_our_variables(self._environ))

        def show(name: str, line: OutputLine) -> None:
            if nats.is_noteworthy(line.text):
                self._show(name, line)

        await stack.enter_async_context(kept(Keeper(NATS, nats.spec, show, nats.is_ready_line), _STOP_MARGIN_S))
        self._common = msgspec.structs.replace(
            self._common, nats_url=nats.url, nats_user=nats.user, nats_password=nats.password
        )
        log.info("NATS is ready at %s", nats.url)

    async def _start_trace_console(self, stack: AsyncExitStack) -> None:
        console = TraceConsole(
            self._terminal.stream, forward_to=self._common.otlp_endpoint, make_room=self._terminal.make_room
        )
        await stack.enter_async_context(console)
        self._common = msgspec.structs.replace(self._common, otlp_endpoint=console.endpoint)

    def _keeper(self, instance: Instance) -> Keeper:
        return Keeper(
            instance.name,
            lambda: instance.spec(self._common, self._environ),
            self._show,
            instance.is_ready_line,
        )

    def _show(self, name: str, line: OutputLine) -> None:
        self._terminal.show(name, line.text, is_transient=line.is_transient)

    async def _announce(self, supervisor: Supervisor) -> None:
        await supervisor.wait_ready()
        host, port = self._listener.getsockname()[:2]
        shown_host = f"[{host}]" if ":" in host else host
        log.info("ready: http://%s:%d serves %s", shown_host, port, self._options.gateway.model_name)


def _stop_on_signals(request_stop: Callable[[], None], *, watch_stdin: bool) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, request_stop)
    if watch_stdin:
        descriptor = sys.stdin.fileno()

        def on_readable() -> None:
            if not os.read(descriptor, 4096):
                loop.remove_reader(descriptor)
                request_stop()

        loop.add_reader(descriptor, on_readable)
