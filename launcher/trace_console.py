"""Shows a request's way through the stages as a waterfall, once its trace is complete."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Self, TextIO

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rich.console import Console

from launcher.trace_collector import TraceCollector
from launcher.waterfall import HopSpan, read_spans, render

_MAX_OPEN_TRACES = 1000
# A stage exports every 0.5 s; this long after a trace's last news nobody has anything to add.
_SETTLE_S = 1.0


class TraceConsole:
    """Collects spans for as long as it is entered, and prints each trace to `stream` when it has settled.

    A trace has settled when its root has ended and no span of it came for `settle_s`. One that is a single span never
    left the gateway (a health check, a list of models) and is not shown.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        forward_to: str = "",
        settle_s: float = _SETTLE_S,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """`make_room` is called before a trace is printed, for who else draws on that stream."""
        self._console = Console(file=stream, highlight=False)
        self._make_room = make_room
        self._settle_s = settle_s
        self._collector = TraceCollector(self._receive, forward_to)
        self._open: OrderedDict[str, list[HopSpan]] = OrderedDict()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def endpoint(self) -> str:
        """What the stages take as `--otlp-endpoint`."""
        return self._collector.endpoint

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._collector.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._collector.close)
        for timer in self._timers.values():
            timer.cancel()
        for trace_id in list(self._timers):
            self._show(trace_id)

    def _receive(self, export: ExportTraceServiceRequest) -> None:
        assert self._loop is not None, "the collector has been started"
        self._loop.call_soon_threadsafe(self._add, read_spans(export))

    def _add(self, spans: Sequence[HopSpan]) -> None:
        for span in spans:
            self._open.setdefault(span.trace_id, []).append(span)
            while len(self._open) > _MAX_OPEN_TRACES:
                self._forget(next(iter(self._open)))
        for trace_id in {span.trace_id for span in spans} & self._open.keys():
            if any(span.is_root for span in self._open[trace_id]):
                self._settle(trace_id)

    def _settle(self, trace_id: str) -> None:
        if trace_id in self._timers:
            self._timers[trace_id].cancel()
        self._timers[trace_id] = asyncio.get_running_loop().call_later(self._settle_s, self._show, trace_id)

    def _show(self, trace_id: str) -> None:
        spans = self._forget(trace_id)
        if len(spans) > 1:
            self._make_room()
            self._console.print(render(spans, self._console.width), crop=False)

    def _forget(self, trace_id: str) -> list[HopSpan]:
        timer = self._timers.pop(trace_id, None)
        if timer is not None:
            timer.cancel()
        return self._open.pop(trace_id)
