"""Messages that no worker of ours would write: each is dropped or worked on, none does harm."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.detokenizer_svc.batches import batch, finish, opened, settings
from tests.unit.detokenizer_svc.scene import playing
from tests.unit.detokenizer_svc.test_batch_run import Rig, ids
from wire import subjects
from wire.codec import decode, encode
from wire.messages import (
    Abort,
    BatchAck,
    FinishReason,
    Heartbeat,
    LogprobColumns,
    Peer,
    Stage,
    StreamFinish,
    StreamOpen,
    StreamSettings,
    TextBatch,
    TokenBatch,
)

columns = st.integers(0, 3).map(lambda n: bytes([1, 0, 0, 0]) * n) | st.binary(max_size=12)
numbers = st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**32, 2**63])
peers = st.builds(Peer, st.sampled_from(["worker-f", "gateway-f", "", "a.b"]), numbers)
stops = st.lists(st.sampled_from(["", "a", "ab", "\ufffd"]), max_size=2).map(tuple)
stream_settings = st.builds(
    StreamSettings,
    gateway=peers,
    request_id=st.just("r"),
    prompt_tail=columns,
    num_sequences=numbers,
    stop=stops,
    min_new_tokens=numbers,
    no_stop_trim=st.booleans(),
)
opens = st.builds(
    StreamOpen,
    stream_id=numbers,
    key=numbers,
    choice=numbers,
    settings=stream_settings,
    output_ids=columns,
    text_len=numbers,
)
finishes = st.builds(
    lambda row, token: StreamFinish(row, FinishReason.STOP, token, 0, 0, 0, 0, 0, 0, 0), numbers, numbers
)
logprobs = st.none() | st.builds(LogprobColumns, columns, columns, columns, columns, columns)
batches = st.builds(
    TokenBatch,
    worker=peers,
    batch_seq=numbers,
    stream_ids=columns,
    first_indexes=columns,
    counts=columns,
    token_ids=columns,
    opens=st.lists(opens, max_size=3).map(tuple),
    finishes=st.lists(finishes, max_size=2).map(tuple),
    logprobs=logprobs,
)


@given(st.lists(batches, max_size=6))
def test_any_batches_are_worked_on_or_dropped_and_their_text_can_be_sent(history: list[TokenBatch]) -> None:
    rig = Rig()
    for message in history:
        for _, text_batch in rig.run(message).texts:
            assert decode(encode(text_batch)) == text_batch
    assert rig.metrics.counts["batches"] == len(history)


async def test_noise_on_its_subjects_leaves_the_detokenizer_at_work(nats_url: str, tmp_path: Path) -> None:
    async with playing(nats_url, tmp_path) as scene:
        subjects_of_mine = [
            scene.data_subject,
            scene.control_subject,
            subjects.abort(scene.model_key),
            subjects.rpc(scene.model_key, Stage.DETOKENIZER, scene.instance.instance_id),
        ]
        peer = Peer("gateway-f", 1)
        odd = [b"", b"\xc1", b"\x81\xa4type\xa4Nope", encode(Abort(peer, -1)), encode(BatchAck(peer, peer, 1))]
        for subject in subjects_of_mine:
            for payload in odd:
                await scene.bus.publish_encoded(subject, payload)
        given_settings = settings(gateway=scene.gateway)
        message = batch(
            [(1, 0, ids("a"))], opens=[opened(1, 7, given_settings)], finishes=[finish(0)], worker=scene.worker
        )
        await scene.send(message)
        assert (await scene.at_gateway.wait_for(TextBatch)).texts == ["a"]
        await scene.public.wait_for(Heartbeat, lambda beat: beat.counters["tokens"] == 1 and beat.num_states == 0)
        assert scene.sample("millrace_bus_handler_errors_total") == 0
