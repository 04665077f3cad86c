"""The detokenizer over a real broker: batches, acknowledgements, aborts, losses, drain."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.detokenizer_svc.batches import batch, finish, opened, settings
from tests.unit.detokenizer_svc.scene import Scene, playing
from tests.unit.detokenizer_svc.test_batch_run import ids
from wire import subjects
from wire.columns import pack_u64
from wire.messages import (
    Abort,
    BatchAck,
    Describe,
    Description,
    Failed,
    InstanceState,
    Peer,
    Released,
    Stage,
    TextBatch,
)


@pytest.fixture
async def scene(nats_url: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with playing(nats_url, tmp_path) as scene:
        yield scene


async def open_stream(scene: Scene, stream_id: int, key: int, text: str = "a", **more: object) -> None:
    """A stream with its first token, and nothing more to come."""
    given_settings = settings(gateway=scene.gateway, **more)  # type: ignore[arg-type]
    message = batch([(stream_id, 0, ids(text))], opens=[opened(stream_id, key, given_settings)], worker=scene.worker)
    await scene.send(message)


async def test_a_batch_of_ids_becomes_a_batch_of_text(scene: Scene) -> None:
    await open_stream(scene, 1, 7)
    await scene.send(batch([(1, 1, ids("b"))], finishes=[finish(0, num=2)], worker=scene.worker, seq=2))
    last = await scene.at_gateway.wait_for(TextBatch, lambda message: bool(message.finishes))
    assert [message.texts for message in scene.at_gateway.of(TextBatch)] == [["a"], ["b"]]
    assert (last.detokenizer, last.worker) == (scene.instance.peer, scene.worker)
    await scene.until_held(0)


async def test_a_single_batch_is_acknowledged_in_time(scene: Scene) -> None:
    await open_stream(scene, 1, 7)
    async with asyncio.timeout(1.0):
        acknowledgement = await scene.at_worker.wait_for(BatchAck)
    assert acknowledgement == BatchAck(scene.instance.peer, scene.worker, 1)


async def test_every_sixteenth_batch_is_acknowledged_at_once(scene: Scene) -> None:
    for seq in range(1, 33):
        await scene.send(batch([], worker=scene.worker, seq=seq))
    await scene.at_worker.wait_for(BatchAck, lambda message: message.batch_seq == 32)
    assert len(scene.at_worker.of(BatchAck)) <= 4


async def test_a_stop_string_aborts_the_sequence_at_its_worker(scene: Scene) -> None:
    await open_stream(scene, 1, 7, "E", stop=("E",))
    assert await scene.at_worker.wait_for(Abort) == Abort(scene.instance.peer, 7, 0)


async def test_a_gap_is_reported_to_the_gateway(scene: Scene) -> None:
    await open_stream(scene, 1, 7)
    await scene.send(batch([(1, 5, ids("b"))], worker=scene.worker, seq=2))
    failed = await scene.at_gateway.wait_for(Failed)
    assert (failed.key, failed.choice, failed.is_retryable) == (7, 0, True)


@pytest.mark.parametrize("is_broadcast", [False, True])
async def test_an_abort_drops_the_streams_of_its_key(scene: Scene, is_broadcast: bool) -> None:
    await open_stream(scene, 1, 7)
    await open_stream(scene, 2, 8)
    await scene.until_held(2)
    subject = subjects.abort(scene.model_key) if is_broadcast else scene.control_subject
    await scene.bus.publish(subject, Abort(scene.gateway, 7))
    await scene.until_held(1)


async def test_a_lost_gateway_and_a_lost_worker_take_their_streams_along(scene: Scene) -> None:
    other = Peer(scene.gateway.instance_id + "x", 1)
    await scene.beat(Stage.GATEWAY, other)
    await scene.beat(Stage.WORKER, scene.worker)
    await open_stream(scene, 1, 7)
    message = batch([(2, 0, ids("a"))], opens=[opened(2, 8, settings(gateway=other))], worker=scene.worker, seq=2)
    await scene.send(message)
    await scene.until_held(2)
    await scene.beat(Stage.GATEWAY, other, InstanceState.LEAVING)
    await scene.until_held(1)
    await scene.beat(Stage.WORKER, scene.worker, InstanceState.LEAVING)
    await scene.until_held(0)


async def test_draining_serves_its_streams_to_their_end(scene: Scene) -> None:
    await open_stream(scene, 1, 7)
    await scene.at_gateway.wait_for(TextBatch)
    draining = asyncio.create_task(scene.service.drain())
    await scene.send(batch([(1, 1, ids("b"))], finishes=[finish(0, num=2)], worker=scene.worker, seq=2))
    await draining
    await scene.at_gateway.wait_for(TextBatch, lambda message: message.texts == ["b"])
    assert scene.at_gateway.of(Released) == []


async def test_what_does_not_end_in_time_is_handed_back(nats_url: str, tmp_path: Path) -> None:
    async with playing(nats_url, tmp_path, drain_timeout_s=0.05) as scene:
        await open_stream(scene, 1, 7)
        await open_stream(scene, 2, 8)
        await scene.at_gateway.wait_for(TextBatch, lambda message: message.keys == pack_u64([8]))
        await scene.service.drain()
        released = await scene.at_gateway.wait_for(Released)
        assert released.sender == scene.instance.peer
        assert released.keys == pack_u64([7, 8])


async def test_describe_tells_settings_model_and_counters(scene: Scene) -> None:
    await open_stream(scene, 1, 7)
    await scene.at_gateway.wait_for(TextBatch)
    subject = subjects.rpc(scene.model_key, Stage.DETOKENIZER, scene.instance.instance_id)
    reply = await scene.bus.request(subject, Describe(), 5.0)
    assert isinstance(reply, Description)
    assert reply.settings["served_model_name"] == "tiny"
    assert reply.model["vocab_size"] > 256
    assert (reply.stats["tokens"], reply.stats["num_streams"]) == (1, 1)


async def test_the_metrics_page_counts_tokens_and_streams(scene: Scene) -> None:
    await open_stream(scene, 1, 7)
    await scene.at_gateway.wait_for(TextBatch)
    assert scene.sample("millrace_detokenizer_tokens_total") == 1
    assert scene.sample("millrace_detokenizer_streams") == 1


async def test_a_batch_of_a_worker_that_cannot_exist_is_counted(scene: Scene) -> None:
    await scene.send(batch([], worker=Peer("not an id", 1)))
    await open_stream(scene, 1, 7)
    await scene.at_gateway.wait_for(TextBatch)
    assert scene.sample("millrace_bus_undecodable_messages_total") == 1
    assert scene.sample("millrace_detokenizer_streams") == 1
