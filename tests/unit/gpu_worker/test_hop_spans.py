"""The worker's spans of requests that end or go on in unusual ways: whatever has begun ends once, and is exported."""

import time
from collections.abc import Iterator

import msgspec
import pytest

from gpu_worker.engine_requests import generation_request, new_sequences
from gpu_worker.held_requests import HeldRequests
from gpu_worker.hop_spans import HopSpans
from gpu_worker.reattachment import reattach
from gpu_worker.result_router import ResultRouter
from gpu_worker.synthetic import SyntheticEngine, SyntheticOptions
from tests.unit.gpu_worker.bus_peers import DETOKENIZER, GATEWAY, job
from tests.unit.wire.collector import Collector, ExportedSpan, running_collector
from wire.messages import Peer, Reattach, ReattachPoint, Stage
from wire.telemetry import Tracing

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


class Rig:
    """One traced request with key 1, as the worker holds it, and an engine that the test steps."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._tracing = Tracing(collector.endpoint, 1.0, Stage.WORKER, "worker-1")
        self.held = HeldRequests()
        self.router = ResultRouter(Peer("worker-1", 1), self.held)
        self._engine = SyntheticEngine(SyntheticOptions(vocab_size=1000, context_length=1024))
        plain = job(1, max_new_tokens=2)
        stream = msgspec.structs.replace(plain.stream, traceparent=f"00-{TRACE_ID}-b7ad6b7169203331-01")
        wanted = msgspec.structs.replace(plain, stream=stream)
        request = self.held.hold(wanted, 0, HopSpans(self._tracing, wanted, time.time_ns(), {}))
        self._engine.add(generation_request(wanted, new_sequences(request)))

    def step(self) -> None:
        """One token for each sequence."""
        self.router.route(self._engine.step())

    def reattach(self, old_key: int, new_key: int, attempt: int) -> None:
        """As the gateway asks, below another attempt's span."""
        message = Reattach(
            sender=GATEWAY,
            old_key=old_key,
            new_key=new_key,
            detokenizer=DETOKENIZER,
            points=(ReattachPoint(0, 0, 0),),
            attempt=attempt,
            traceparent=f"00-{TRACE_ID}-000000000000000{attempt}-01",
        )
        assert reattach(self.held, self.router, message, time.time_ns()) is not None

    def spans(self) -> list[ExportedSpan]:
        """All that has ended."""
        self._tracing.shutdown()
        return self._collector.spans(TRACE_ID)


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Waiting for its first step."""
    with running_collector() as collector:
        yield Rig(collector)


def test_a_request_that_a_stop_string_ends_has_its_decode_span(rig: Rig) -> None:
    rig.step()
    rig.router.stop(1, 0)
    assert [span.name for span in rig.spans()] == ["queue", "prefill", "decode"]


def test_a_request_that_is_aborted_has_the_span_of_what_it_was_in(rig: Rig) -> None:
    rig.router.drop(1)
    (queue,) = rig.spans()
    assert queue.name == "queue"
    assert queue.attributes["gen_ai.response.finish_reasons"] == ["abort"]


def test_what_goes_on_has_a_span_below_each_of_its_attempts(rig: Rig) -> None:
    rig.step()
    rig.reattach(1, 2, attempt=2)
    rig.step()
    *_, first, second = rig.spans()
    assert (first.name, first.parent_id) == ("decode", "b7ad6b7169203331")
    assert (second.name, second.parent_id, second.links) == ("decode", "0000000000000002", (first.span_id,))
    assert second.attributes["gen_ai.response.finish_reasons"] == ["length"]


def test_what_has_ended_and_is_sent_again_has_a_span_that_ends_too(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.step()
    rig.step()
    rig.reattach(1, 2, attempt=2)
    rig.reattach(2, 3, attempt=3)
    *_, first, second = rig.spans()
    assert (first.parent_id, second.parent_id) == ("0000000000000002", "0000000000000003")
    assert second.attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert second.attributes["gen_ai.usage.output_tokens"] == 2
    assert caplog.messages == [], "no span is ended twice"
