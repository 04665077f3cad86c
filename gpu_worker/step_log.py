"""The `Prefill batch` and `Decode batch` log lines, in the form of SGLang 0.5 that existing log parsers read."""

import logging
import time
from collections.abc import Callable

from gpu_worker.scheduling.batch import StepStats

logger = logging.getLogger(__name__)


class StepLog:
    """Watches step results: a line per step with a prefill, one per `decode_log_interval` steps without."""

    def __init__(self, decode_log_interval: int = 40, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = decode_log_interval
        self._clock = clock
        self._num_decode_steps = 0
        self._num_decoded = 0
        self._decoding_since = clock()
        self._prefilling_since = clock()
        self.gen_throughput = 0.0
        """Tokens per second of the last `Decode batch` line."""

    def observe(self, stats: StepStats) -> None:
        """Take note of a step that has ended."""
        self._num_decoded += stats.num_decodes
        if stats.num_prefill_tokens:
            self._log_prefill(stats)
        elif stats.num_decodes:
            self._num_decode_steps += 1
            if self._num_decode_steps % self._interval == 0:
                self._log_decode(stats)

    def _log_prefill(self, stats: StepStats) -> None:
        now = self._clock()
        logger.info(
            "Prefill batch, #new-seq: %d, #new-token: %d, #cached-token: %d, token usage: %.2f, #running-req: %d, "
            "#queue-req: %d, #pending-token: %d, cuda graph: %s, input throughput (token/s): %.2f",
            stats.num_new_sequences,
            stats.num_prefill_tokens,
            stats.num_cached_tokens,
            _usage(stats),
            stats.num_decodes,
            stats.num_waiting,
            stats.num_pending_tokens,
            stats.has_graph,
            _rate(stats.num_prefill_tokens, now - self._prefilling_since),
        )
        self._prefilling_since = now

    def _log_decode(self, stats: StepStats) -> None:
        now = self._clock()
        self.gen_throughput = _rate(self._num_decoded, now - self._decoding_since)
        logger.info(
            "Decode batch, #running-req: %d, #token: %d, token usage: %.2f, cuda graph: %s, "
            "gen throughput (token/s): %.2f, #queue-req: %d",
            stats.num_running,
            stats.num_used_tokens,
            _usage(stats),
            stats.has_graph,
            self.gen_throughput,
            stats.num_waiting,
        )
        self._decoding_since, self._num_decoded = now, 0


def _usage(stats: StepStats) -> float:
    return stats.num_used_tokens / stats.num_kv_tokens if stats.num_kv_tokens else 0.0


def _rate(num_tokens: int, seconds: float) -> float:
    return num_tokens / seconds if seconds > 0 else 0.0
