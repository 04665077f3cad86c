"""A real worker process around an engine without a model: `python -m bench.pipeline_worker`, for `bench.pipeline`."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer

from bench.step_clock import CHARS_PER_TOKEN, INTERVAL_UNIT_S, StepClock
from gpu_worker.engine_host import EngineHost, LoadedModel
from gpu_worker.scheduling.batch import StepResult, StepStats
from gpu_worker.scheduling.sequence import GenerationRequest, Sequence
from gpu_worker.service import WorkerLimits, WorkerService
from gpu_worker.step_log import StepLog
from gpu_worker.synthetic import SyntheticEngine, SyntheticOptions
from gpu_worker.worker_metrics import WorkerMetrics
from wire.checkpoint import resolve
from wire.lifecycle import run, serve
from wire.messages import Stage
from wire.node import Node
from wire.settings import CommonSettings, load_settings

_MAX_LEAD = 4


class PipelineWorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bench worker."""

    clock_folder: Annotated[str, Meta(description="Where the step times of each run are written")]


class ClockedEngine(SyntheticEngine):
    """Paces each run as its prompts say and writes down when every token was made.

    With an interval of 0 it runs as fast as its own event loop takes results: an engine without a model would else
    fill the memory. What the rest of the pipeline cannot take waits in the worker, as longer messages.
    """

    def __init__(self, token_ids: list[int], vocab_size: int, clock: StepClock) -> None:
        super().__init__(SyntheticOptions(vocab_size=vocab_size))
        self._token_ids = token_ids
        self._clock = clock
        self._streams: dict[int, int] = {}
        self._interval_s = 0.0
        self._due = 0.0
        self.room = threading.Semaphore(_MAX_LEAD)

    def add(self, request: GenerationRequest) -> list[Sequence]:
        """Takes run, stream and interval from the prompt."""
        sequences = super().add(request)
        run_number, stream, interval = sequences[0].token_ids[:3]
        self._clock.begin_run(run_number)
        self._interval_s = interval * INTERVAL_UNIT_S
        self._streams.update({sequence.sequence_id: stream for sequence in sequences})
        return sequences

    def step(self, *announce: Callable[[int], object]) -> StepResult:
        """One token for everybody, no earlier than the interval after the last step."""
        self.room.acquire()
        self._wait()
        self._clock.begin_step([self._streams[sequence.sequence_id] for sequence in self._running])
        result = super().step(*announce)
        if not self._running:
            self._clock.pause()
            self._streams.clear()
        return result

    def _wait(self) -> None:
        now = time.monotonic()
        if now < self._due:
            time.sleep(self._due - now)
        self._due = max(now, self._due) + self._interval_s

    def _token_id(self, sequence: Sequence) -> int:
        return self._token_ids[(sequence.num_output_tokens * 17 + sequence.sequence_id) % len(self._token_ids)]


class ReleasingMetrics(WorkerMetrics):
    """Lets the engine take another step for every result that the event loop has taken."""

    def __init__(self, registry: CollectorRegistry, room: threading.Semaphore) -> None:
        super().__init__(registry)
        self._room = room

    def observe(self, stats: StepStats, num_output_tokens: int) -> None:
        """Takes one step in."""
        super().observe(stats, num_output_tokens)
        self._room.release()


def _readable_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids whose text is exactly four letters or spaces, so that characters count tokens."""
    texts = {token_id: tokenizer.decode([token_id]) for token_id in range(tokenizer.get_vocab_size())}
    return [
        token_id
        for token_id, text in texts.items()
        if len(text) == CHARS_PER_TOKEN and text.isascii() and text.replace(" ", "").isalpha()
    ]


def _load_engine(settings: PipelineWorkerSettings) -> ClockedEngine:
    checkpoint = resolve("demo")
    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    return ClockedEngine(_readable_ids(tokenizer), checkpoint.vocab_size, StepClock(Path(settings.clock_folder)))


async def _serve(common: CommonSettings, settings: PipelineWorkerSettings) -> None:
    node = await Node.connect(common, Stage.WORKER, "demo")
    engine = _load_engine(settings)
    metrics = ReleasingMetrics(node.registry, engine.room)
    loaded = LoadedModel(engine, resolve("demo").fingerprint(), engine.limits.context_length, 16)
    host = EngineHost(lambda: loaded, metrics.note_failed_step)
    limits = WorkerLimits(common.drain_timeout, common.heartbeat_timeout)
    service = WorkerService(node, host, metrics, limits, StepLog(1_000_000), {})
    await serve(node.instance, service, node.background, exit_on_stdin_eof=common.exit_on_stdin_eof)


if __name__ == "__main__":
    run(_serve(*load_settings("bench-worker", CommonSettings, PipelineWorkerSettings)))
