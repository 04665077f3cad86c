"""The worker's Prometheus metrics."""

import logging

from prometheus_client import CollectorRegistry, Counter, Gauge

from gpu_worker.engine_host import HostedEngine
from gpu_worker.scheduling.batch import StepStats

log = logging.getLogger(__name__)


class WorkerMetrics:
    """Counters of work done, and gauges of what is going on."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter("millrace_worker_requests", "Jobs accepted", registry=registry)
        self.reattached = Counter(
            "millrace_worker_reattached",
            "Requests that went on under a new attempt, nothing repeated",
            registry=registry,
        )
        self.refused = Counter("millrace_worker_refused", "Jobs that the engine can never serve", registry=registry)
        self.failed_steps = Counter("millrace_worker_failed_steps", "Engine steps that raised", registry=registry)
        self.steps = Counter("millrace_worker_steps", "Engine steps", registry=registry)
        self.prefill_tokens = Counter(
            "millrace_worker_prefill_tokens",
            "Tokens prefilled; after a preemption or a resume those of the output so far too",
            registry=registry,
        )
        self.cached_tokens = Counter(
            "millrace_worker_cached_tokens", "Tokens to prefill that the prefix cache had", registry=registry
        )
        self.output_tokens = Counter("millrace_worker_output_tokens", "Tokens sampled", registry=registry)
        self.preemptions = Counter(
            "millrace_worker_preemptions", "Sequences set back because pages ran out", registry=registry
        )
        self.stalls = Counter(
            "millrace_worker_stalls", "Times a live detokenizer acknowledged nothing for too long", registry=registry
        )
        self._registry = registry

    def watch(self, engine: HostedEngine, page_size: int) -> None:
        """Shows the engine's state of the moment when somebody looks; to be called once, when it is loaded."""
        for name, text, value in (
            ("millrace_worker_running_sequences", "Sequences that run", lambda: len(engine.running())),
            ("millrace_worker_waiting_sequences", "Sequences in the queue", lambda: len(engine.waiting())),
            (
                "millrace_worker_kv_used_tokens",
                "KV slots that sequences hold",
                lambda: engine.num_used_pages * page_size,
            ),
            (
                "millrace_worker_kv_cached_tokens",
                "KV slots that only the prefix cache keeps",
                lambda: engine.num_cached_pages * page_size,
            ),
            ("millrace_worker_kv_tokens", "KV slots in all", lambda: engine.num_pages * page_size),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def observe(self, stats: StepStats, num_output_tokens: int) -> None:
        """Takes one step in."""
        self.steps.inc()
        self.output_tokens.inc(num_output_tokens)
        if stats.num_prefill_tokens:
            self.prefill_tokens.inc(stats.num_prefill_tokens)
            self.cached_tokens.inc(stats.num_cached_tokens)
        if stats.num_preemptions:
            self.preemptions.inc(stats.num_preemptions)

    def note_failed_step(self, error: Exception) -> None:
        """Counts a step that raised; its requests are failed elsewhere."""
        self.failed_steps.inc()
        log.error("an engine step failed", exc_info=error)
