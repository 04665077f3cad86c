"""An engine that hangs while its process lives and its heartbeats go on: `--step-timeout` tells."""

from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.hanging_worker import HANGS_AT, MARK
from tests.pipeline.streams import Stream
from tests.pipeline.system import running_system
from wire.messages import Stage

NUM_STREAMS = 8


def body(prompt: dict[str, Any]) -> dict[str, Any]:
    return prompt | {"sampling_params": {"max_new_tokens": 100, "ignore_eos": True, "temperature": 0}}


def test_streams_leave_a_worker_whose_engine_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, str(tmp_path / "one-hangs"))
    bodies = [body({"text": f"{number}: The capital of France is"}) for number in range(NUM_STREAMS)]
    trap = body({"input_ids": [5, HANGS_AT, 6]})
    settings = {"dtype": "float64", "num_threads": 1, "step_timeout": 1.0}
    with running_system(tmp_path, workers=0, worker=settings) as system:
        launched = [system.launch(Stage.WORKER, module="tests.pipeline.hanging_worker") for _ in range(2)]
        for process in launched:
            system.joined(Stage.WORKER, process)
        system.wait_until_known()
        expected = [Stream(system.url, given).result() for given in bodies]
        assert not any(HANGS_AT in result["output_ids"] for result in expected)
        streams = [Stream(system.url, given) for given in bodies]
        for stream in streams:
            stream.wait_for_tokens(10)
        trapped = Stream(system.url, trap)
        for stream, undisturbed in zip(streams, expected, strict=True):
            assert stream.result()["output_ids"] == undisturbed["output_ids"]
        assert len(trapped.result()["output_ids"]) == 100
        repairs = system.metrics("millrace_gateway_repairs_total")
        assert repairs['{cause="worker_hung",stage="worker"}'] >= 1
