"""A trace as aligned bars: one line per hop, its stage, when it began and how long it took."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from rich.console import Group, JustifyMethod
from rich.table import Table
from rich.text import Text

_STAGE_STYLES = {"gateway": "cyan", "tokenizer": "yellow", "worker": "green", "detokenizer": "magenta"}
_MIN_BAR = 10
_TIME_WIDTH = len("+12345.6 ms")
_COLUMN_GAP = 2
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_NS_PER_MS = 1e6
_SHOWN_ATTRIBUTES = {
    "gen_ai.usage.input_tokens": "{} prompt tokens",
    "gen_ai.usage.output_tokens": "{} output tokens",
    "gen_ai.response.finish_reasons": "finish {}",
    "http.response.status_code": "HTTP {}",
}


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    style: str = ""
    justify: JustifyMethod = "left"


_COLUMNS = (
    _Column("hop"),
    _Column("instance", style="dim"),
    _Column("bar"),
    _Column("start", justify="right"),
    _Column("duration", justify="right"),
)


@dataclass(frozen=True, slots=True)
class HopSpan:
    """What the waterfall needs of a span. `is_root`: the gateway's span of an HTTP request."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    stage: str
    instance_id: str
    start_ns: int
    end_ns: int
    is_root: bool
    is_error: bool
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def duration_ms(self) -> float:
        """From its start to its end."""
        return (self.end_ns - self.start_ns) / _NS_PER_MS


def read_spans(export: ExportTraceServiceRequest) -> list[HopSpan]:
    """Every span of one export."""
    return [
        _hop_span(span, _attributes(resource_spans.resource.attributes))
        for resource_spans in export.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def _hop_span(span: Span, resource: dict[str, Any]) -> HopSpan:
    return HopSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        stage=str(resource.get("service.name", "")).removeprefix("millrace-"),
        instance_id=str(resource.get("service.instance.id", "")),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        is_root=span.kind == Span.SPAN_KIND_SERVER,
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
        attributes=_attributes(span.attributes),
    )


def _attributes(pairs: Sequence[KeyValue]) -> dict[str, Any]:
    values = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        if kind == "array_value":
            values[pair.key] = ", ".join(item.string_value for item in pair.value.array_value.values)
        elif kind is not None:
            values[pair.key] = getattr(pair.value, kind)
    return values


def render(spans: Sequence[HopSpan], width: int) -> Group:
    """One trace: a line of facts, then a line per hop. The bars fill what `width` columns leave beside the text."""
    begin = min(span.start_ns for span in spans)
    length = max(1, max(span.end_ns for span in spans) - begin)
    rows = list(_in_order(spans))
    num_cells = max(_MIN_BAR, width - _text_width(rows))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, _COLUMN_GAP, 0, 0))
    for column in _COLUMNS:
        table.add_column(column.name, style=column.style, justify=column.justify, no_wrap=True)
    for depth, span in rows:
        style = "red" if span.is_error else _STAGE_STYLES.get(span.stage, "")
        offset = (span.start_ns - begin) / length
        table.add_row(
            Text(_label(depth, span), style),
            span.instance_id,
            Text(bar(offset, (span.end_ns - span.start_ns) / length, num_cells).ljust(num_cells), style),
            f"+{(span.start_ns - begin) / _NS_PER_MS:.1f} ms",
            f"{span.duration_ms:.1f} ms",
        )
    return Group(_title(spans), table, Text())


def _label(depth: int, span: HopSpan) -> str:
    return "  " * depth + span.name


def _text_width(rows: Sequence[tuple[int, HopSpan]]) -> int:
    labels = max(len(_label(depth, span)) for depth, span in rows)
    instances = max(len(span.instance_id) for _, span in rows)
    return labels + instances + 2 * _TIME_WIDTH + len(_COLUMNS) * _COLUMN_GAP


def bar(offset: float, share: float, num_cells: int) -> str:
    """`share` of the cells filled, from `offset` on, in eighths of a cell; at least one eighth, so that it is seen."""
    start = min(int(offset * num_cells), num_cells - 1)
    eighths = min(max(1, round(share * num_cells * 8)), (num_cells - start) * 8)
    full, rest = divmod(eighths, 8)
    return " " * start + "█" * full + (_EIGHTHS[rest] if rest else "")


def _title(spans: Sequence[HopSpan]) -> Text:
    root = next((span for span in spans if span.is_root), spans[0])
    values = {name: value for span in spans for name, value in span.attributes.items()} | root.attributes
    facts = [shown.format(values[name]) for name, shown in _SHOWN_ATTRIBUTES.items() if name in values]
    title = ", ".join([f"trace {root.trace_id}: {root.duration_ms:.1f} ms", *facts])
    return Text(title, "bold", no_wrap=True, overflow="ignore")


def _in_order(spans: Sequence[HopSpan]) -> Iterator[tuple[int, HopSpan]]:
    """Each span with its depth: parents before children, siblings by start. Orphans of a lost parent are roots."""
    known = {span.span_id for span in spans}
    children: dict[str, list[HopSpan]] = {}
    for span in sorted(spans, key=lambda span: (span.start_ns, span.end_ns)):
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)

    def walk(parent_id: str, depth: int) -> Iterator[tuple[int, HopSpan]]:
        for span in children.get(parent_id, ()):
            yield depth, span
            yield from walk(span.span_id, depth + 1)

    return walk("", 0)
