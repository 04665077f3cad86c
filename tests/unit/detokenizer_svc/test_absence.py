"""A detokenizer that was cut off, while its streams went on elsewhere."""

from pathlib import Path

import pytest

from detokenizer_svc import forgotten
from tests.unit.detokenizer_svc.scene import playing
from tests.unit.detokenizer_svc.test_service import open_stream
from tests.unit.wire.broker import Broker
from wire.messages import TextBatch


async def test_streams_whose_abort_it_missed_are_not_held_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgotten, "FORGOTTEN_AFTER_S", 0.5)
    broker = Broker(tmp_path)
    broker.start()
    try:
        async with playing(broker.url, tmp_path) as scene:
            await open_stream(scene, 1, 7)
            await scene.at_gateway.wait_for(TextBatch)
            await scene.until_held(1)
            broker.stop()
            broker.start()
            await scene.until_held(0)
    finally:
        broker.stop()
