"""The stage's Prometheus metrics."""

from prometheus_client import CollectorRegistry, Counter, Histogram

_ENCODE_BUCKETS_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class TokenizerMetrics:
    """Counted per attempt, resumes included."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter("millrace_tokenizer_requests", "Attempts received", registry=registry)
        self.dispatched = Counter("millrace_tokenizer_dispatched", "Attempts handed to a worker", registry=registry)
        self.prompt_tokens = Counter("millrace_tokenizer_prompt_tokens", "Prompt tokens dispatched", registry=registry)
        self.failures = Counter(
            "millrace_tokenizer_failures", "Attempts that ended in an error", ["code"], registry=registry
        )
        self.dropped = Counter(
            "millrace_tokenizer_dropped",
            "Attempts dropped without an answer",
            ["cause"],
            registry=registry,
        )
        self.unreachable = Counter(
            "millrace_tokenizer_unreachable_workers", "Jobs whose chosen worker was gone", registry=registry
        )
        self.encode_seconds = Histogram(
            "millrace_tokenizer_encode_seconds",
            "Template, encoding and checks of one attempt, waiting for a thread included",
            buckets=_ENCODE_BUCKETS_S,
            registry=registry,
        )
