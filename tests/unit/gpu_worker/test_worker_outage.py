"""A worker whose broker goes away and comes back."""

import asyncio
from pathlib import Path

import pytest

from gpu_worker.held_requests import HeldRequests
from gpu_worker.synthetic import SyntheticEngine, SyntheticOptions
from tests.unit.gpu_worker.bus_peers import running_worker
from tests.unit.wire.broker import Broker


async def test_what_is_kept_is_kept_longer_whichever_connection_is_back_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_control: asyncio.Queue[bool] = asyncio.Queue()
    broker = Broker(tmp_path)
    broker.start()
    try:
        engine = SyntheticEngine(SyntheticOptions(vocab_size=1000, context_length=1024))
        async with running_worker(broker.url, engine) as worker:
            control = worker.node.control
            monkeypatch.setattr(HeldRequests, "keep_longer", lambda _: has_control.put_nowait(control.is_connected))
            broker.stop()
            broker.start()
            async with asyncio.timeout(20):
                # when the one is back, when the other is lost, and when that is back
                assert any([await has_control.get() for _ in range(3)])
    finally:
        broker.stop()
