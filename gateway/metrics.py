"""The gateway's Prometheus metrics: its own, and those of SGLang that can be known from here, under SGLang's names."""

from bisect import bisect_left
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.inflight.generation import Attempt, Cause, Generation
from wire.messages import FinishReason, Heartbeat, Stage
from wire.presence import MemberTable

_LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320)
_DETECTION_BUCKETS_S = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 5, 10)
_GAP_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5)


class GatewayMetrics:
    """Counts what happens; every method is one event."""

    def __init__(self, registry: CollectorRegistry, model_name: str, members: MemberTable) -> None:
        self._model_name = model_name
        self._gaps = _GapHistogram(model_name)
        registry.register(self._gaps)
        registry.register(_WorkerGauges(members, model_name))
        self._tokens = {
            name: Counter(f"sglang:{name}", text, ["model_name", "is_streaming"], registry=registry)
            for name, text in (
                ("prompt_tokens", "Prompt tokens processed"),
                ("generation_tokens", "Output tokens"),
                ("num_requests", "Requests finished"),
            )
        }
        labels = ["model_name", "cache_source"]
        self._cached = Counter("sglang:cached_tokens", "Prompt tokens from a prefix cache", labels, registry=registry)
        self._aborted = Counter("sglang:num_aborted_requests", "Requests aborted", ["model_name"], registry=registry)
        self._first_token = _latency("sglang:time_to_first_token_seconds", "Time to the first token", registry)
        self._whole = _latency("sglang:e2e_request_latency_seconds", "Time from request to last token", registry)
        labels = ["endpoint", "method"]
        self._requests = Counter("sglang:http_requests", "HTTP requests", labels, registry=registry)
        labels = ["endpoint", "status_code", "method"]
        self._responses = Counter("sglang:http_responses", "HTTP responses", labels, registry=registry)
        labels = ["cause", "kind"]
        self._attempts = Counter("millrace_gateway_attempts", "Attempts sent", labels, registry=registry)
        labels = ["cause", "stage"]
        self._repairs = Counter("millrace_gateway_repairs", "Attempts given up", labels, registry=registry)
        self._detection = Histogram(
            "millrace_gateway_detection_seconds",
            "Silence of an instance before it was given up",
            ["stage"],
            buckets=_DETECTION_BUCKETS_S,
            registry=registry,
        )
        self._duplicates = Counter("millrace_gateway_duplicate_rows", "Rows with nothing new", registry=registry)
        self._lost_rows = Counter("millrace_gateway_gaps", "Streams that missed something", registry=registry)
        self._stale = Counter(
            "millrace_gateway_fenced_rows", "Rows of a past attempt, fenced off by its key", registry=registry
        )
        self._unknown = Counter("millrace_gateway_unknown_keys", "Keys that nobody waits for", registry=registry)
        self._malformed = Counter("millrace_gateway_malformed_batches", "Messages that do not fit", registry=registry)
        self._stuck = Counter("millrace_gateway_stuck_clients", "Clients that stopped reading", registry=registry)

    def count_attempt(self, attempt: Attempt) -> None:
        """One was sent: the first, a resume from the frozen ids, or a re-attachment, which computes nothing twice."""
        kind = "reattach" if attempt.is_reattachment else "resume" if attempt.is_resume else "first"
        self._attempts.labels(attempt.cause.value, kind).inc()

    def count_repair(self, cause: Cause, stage: str) -> None:
        """An attempt was given up, lost at this stage."""
        self._repairs.labels(cause.value, stage).inc()
        if cause is Cause.GAP:
            self._lost_rows.inc()

    def observe_detection(self, stage: Stage, silence_s: float) -> None:
        """An instance was given up."""
        self._detection.labels(stage.value).observe(silence_s)

    def count_unknown_keys(self, keys: int) -> None:
        """A holder has keys that nobody here waits for."""
        self._unknown.inc(keys)

    def count_stale_rows(self, rows: int) -> None:
        """Rows whose key is not current."""
        self._stale.inc(rows)

    def count_duplicate(self) -> None:
        """A row brought nothing new."""
        self._duplicates.inc()

    def count_malformed(self) -> None:
        """The columns of a message do not fit together."""
        self._malformed.inc()

    def count_stuck_client(self) -> None:
        """A client read nothing for the timeout."""
        self._stuck.inc()

    def observe_gaps_between_tokens(self, gaps: list[tuple[float, int]]) -> None:
        """On the hot path, once per batch: seconds, and how many tokens came after them."""
        self._gaps.observe(gaps)

    def count_http_request(self, endpoint: str, method: str) -> None:
        """A request was routed."""
        self._requests.labels(endpoint, method).inc()

    def count_http_response(self, endpoint: str, method: str, status: int) -> None:
        """A response was begun."""
        self._responses.labels(endpoint, str(status), method).inc()

    def count_finished(self, generation: Generation, now: float) -> None:
        """A generation ended, however it did."""
        call = generation.call
        labels = (self._model_name, str(call.is_streaming))
        self._tokens["num_requests"].labels(*labels).inc()
        self._tokens["prompt_tokens"].labels(*labels).inc(generation.num_prompt_tokens)
        self._tokens["generation_tokens"].labels(*labels).inc(sum(c.num_tokens for c in generation.choices))
        self._cached.labels(self._model_name, "device").inc(generation.cached_tokens)
        if any(c.finish and c.finish.reason is FinishReason.ABORT for c in generation.choices):
            self._aborted.labels(self._model_name).inc()
        self._whole.labels(*labels).observe(now - call.received_at)
        if generation.first_token_at:
            self._first_token.labels(*labels).observe(generation.first_token_at - call.received_at)


def _latency(name: str, text: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, text, ["model_name", "is_streaming"], buckets=_LATENCY_BUCKETS_S, registry=registry)


class _GapHistogram(Collector):
    """The inter-token latency. The library's histogram takes a lock per observation, and this one sees every token."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._counts = [0] * (len(_GAP_BUCKETS_S) + 1)
        self._sum = 0.0

    def observe(self, gaps: list[tuple[float, int]]) -> None:
        """Pairs of seconds and the number of tokens that came after them."""
        counts = self._counts
        for seconds, num_tokens in gaps:
            if num_tokens:
                counts[bisect_left(_GAP_BUCKETS_S, seconds / num_tokens)] += num_tokens
                self._sum += seconds

    def collect(self) -> Iterable[Metric]:
        """The histogram as Prometheus wants it, cumulative."""
        name, text = "sglang:inter_token_latency_seconds", "Time between two tokens"
        family = HistogramMetricFamily(name, text, labels=["model_name"])
        total, buckets = 0, []
        for bound, count in zip((*map(str, _GAP_BUCKETS_S), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric([self._model_name], buckets, self._sum)
        yield family


class _WorkerGauges(Collector):
    """What the workers' heartbeats tell, summed: the three numbers that Kubernetes balancers read, and the KV cache."""

    def __init__(self, members: MemberTable, model_name: str) -> None:
        self._members = members
        self._model_name = model_name

    def collect(self) -> Iterable[Metric]:
        """The gauges of this moment."""
        beats = [member.heartbeat for member in self._members.of_stage(Stage.WORKER, self._model_name)]
        for name, value in _gauges(beats).items():
            gauge = GaugeMetricFamily(f"sglang:{name}", "Summed over the workers", labels=["model_name"])
            gauge.add_metric([self._model_name], value)
            yield gauge
        instances = GaugeMetricFamily("millrace_instances", "Live instances", labels=["stage", "state"])
        states: dict[tuple[str, str], int] = {}
        for stage in Stage:
            for member in self._members.of_stage(stage):
                labels = (stage.value, member.heartbeat.state.value)
                states[labels] = states.get(labels, 0) + 1
        for labels, number in states.items():
            instances.add_metric(list(labels), number)
        yield instances


def _gauges(beats: list[Heartbeat]) -> dict[str, float]:
    used = sum(beat.num_pages_used * beat.page_size for beat in beats)
    total = sum(beat.num_pages_total * beat.page_size for beat in beats)
    return {
        "num_running_reqs": sum(beat.num_running for beat in beats),
        "num_queue_reqs": sum(beat.num_waiting for beat in beats),
        "num_used_tokens": used,
        "max_total_num_tokens": total,
        "token_usage": used / total if total else 0.0,
    }
