"""What the detokenizer counts. Counted per batch, never per token."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class DetokenizerMetrics:
    """Counters for Prometheus; `counts` gives the same numbers to heartbeats and `Describe`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, documentation: str) -> Counter:
            return Counter(f"millrace_detokenizer_{name}", documentation, registry=registry)

        self._counters = {
            "tokens": counter("tokens", "Tokens turned to text"),
            "batches": counter("batches", "Token batches processed"),
            "unknown_streams": counter("unknown_streams", "Rows dropped because nothing opened their stream"),
            "gaps": counter("gaps", "Streams closed because ids were missing"),
            "nonsense_ids": counter("nonsense_ids", "Streams closed because of an id that the model does not have"),
            "stop_matches": counter("stop_matches", "Streams ended by a stop string"),
            "malformed_batches": counter("malformed_batches", "Batches dropped because their columns did not fit"),
        }
        self.counts = dict.fromkeys(self._counters, 0)

    def show_streams(self, registry: CollectorRegistry, num_streams: Callable[[], int]) -> None:
        """Reports how many streams are held, asked whenever the page is read."""
        gauge = Gauge("millrace_detokenizer_streams", "Streams held", registry=registry)
        gauge.set_function(num_streams)

    def add(self, name: str, amount: int = 1) -> None:
        """Raises one counter; the name is one of `counts`."""
        if amount:
            self.counts[name] += amount
            self._counters[name].inc(amount)
