"""Rows, batches and the flow control between them."""

from itertools import accumulate, groupby

from hypothesis import given
from hypothesis import strategies as st

from gpu_worker.detokenizer_channel import MAX_UNACKED_BATCHES, DetokenizerChannel
from gpu_worker.scheduling.batch import TokenLogprobs
from gpu_worker.token_rows import TokenRow, as_batch, split
from wire.codec import decode, encode
from wire.columns import unpack_f32, unpack_u32
from wire.messages import FinishReason, Peer, StreamFinish, StreamOpen, StreamSettings, TokenBatch

WORKER = Peer("worker-test", 1)


def finish() -> StreamFinish:
    return StreamFinish(0, FinishReason.LENGTH, None, 3, 2, 0, 1, 2, 3, 4)


def test_columns_keep_rows_apart_and_number_the_finishes() -> None:
    rows = [TokenRow(7, 0, [1, 2]), TokenRow(9, 5, []), TokenRow(8, 3, [4], finish=finish())]
    batch = as_batch(WORKER, 1, rows)
    assert list(unpack_u32(batch.stream_ids)) == [7, 9, 8]
    assert list(unpack_u32(batch.first_indexes)) == [0, 5, 3]
    assert list(unpack_u32(batch.counts)) == [2, 0, 1]
    assert list(unpack_u32(batch.token_ids)) == [1, 2, 4]
    assert [entry.row for entry in batch.finishes] == [2]


def test_logprobs_name_the_rows_that_asked() -> None:
    with_logprobs = TokenRow(2, 0, [5], [TokenLogprobs(-0.5, ((5, -0.5), (6, -1.5)))])
    columns = as_batch(WORKER, 1, [TokenRow(1, 0, [4]), with_logprobs]).logprobs
    assert columns is not None
    assert list(unpack_u32(columns.rows)) == [1]
    assert list(unpack_f32(columns.chosen)) == [-0.5]
    assert list(unpack_u32(columns.num_top)) == [2]
    assert list(unpack_u32(columns.top_ids)) == [5, 6]
    assert list(unpack_f32(columns.top)) == [-0.5, -1.5]


@given(
    counts=st.lists(st.integers(0, 3000), max_size=60),
    num_top=st.integers(0, 5),
    limit=st.integers(1000, 20_000),
)
def test_a_split_keeps_every_row_in_order_and_within_the_limit(counts: list[int], num_top: int, limit: int) -> None:
    logprobs = TokenLogprobs(-1.0, tuple((token, -1.0) for token in range(num_top)))
    rows = [TokenRow(i, 0, list(range(count)), [logprobs] * count if num_top else []) for i, count in enumerate(counts)]
    groups = list(split(rows, limit))
    parts = [part for group in groups for part in group]
    for row in rows:
        of_row = [part for part in parts if part.stream_id == row.stream_id]
        assert [token_id for part in of_row for token_id in part.token_ids] == row.token_ids
        assert [part.first_index for part in of_row] == [0, *accumulate(len(part.token_ids) for part in of_row)][:-1]
        assert sum(len(part.logprobs) for part in of_row) == len(row.logprobs)
    assert [stream_id for stream_id, _ in groupby(part.stream_id for part in parts)] == list(range(len(counts)))
    for group in groups:
        assert sum(row.num_bytes for row in group) <= limit
        assert len(encode(as_batch(WORKER, 1, group))) <= sum(row.num_bytes for row in group) + 256


def test_a_row_that_goes_as_several_opens_with_the_first_and_ends_with_the_last() -> None:
    settings = StreamSettings(gateway=WORKER, request_id="r", prompt_tail=b"", num_sequences=1)
    opening = StreamOpen(stream_id=7, key=1, choice=0, settings=settings)
    row = TokenRow(7, 5, list(range(1000)), opening=opening, finish=finish())
    parts = [part for group in split([row], 2000) for part in group]
    assert len(parts) > 1
    assert [part.opening for part in parts] == [opening] + [None] * (len(parts) - 1)
    assert [part.finish for part in parts] == [None] * (len(parts) - 1) + [finish()]


def test_a_blocked_channel_merges_rows_and_sends_them_after_an_acknowledgement() -> None:
    channel = DetokenizerChannel(WORKER)
    for index in range(MAX_UNACKED_BATCHES):
        channel.add(TokenRow(1, index, [index]))
        assert len(channel.take_messages()) == 1
    for index in range(MAX_UNACKED_BATCHES, MAX_UNACKED_BATCHES + 50):
        channel.add(TokenRow(1, index, [index]))
        assert channel.take_messages() == []
    channel.acknowledge(1)
    (message,) = channel.take_messages()
    batch = decode(message)
    assert isinstance(batch, TokenBatch)
    assert batch.batch_seq == MAX_UNACKED_BATCHES + 1
    assert list(unpack_u32(batch.token_ids)) == list(range(MAX_UNACKED_BATCHES, MAX_UNACKED_BATCHES + 50))


def test_a_channel_is_stalled_when_it_was_blocked_for_too_long() -> None:
    now = 0.0
    channel = DetokenizerChannel(WORKER, clock=lambda: now)
    for index in range(MAX_UNACKED_BATCHES):
        channel.add(TokenRow(1, index, [index]))
        channel.take_messages()
    now = 3.0
    assert channel.is_stalled(2.0)
    channel.acknowledge(1)
    assert not channel.is_stalled(2.0)


def test_a_discarded_stream_leaves_the_other_rows() -> None:
    channel = DetokenizerChannel(WORKER)
    channel.add(TokenRow(1, 0, [1]))
    channel.add(TokenRow(2, 0, [2]))
    channel.discard(1)
    (message,) = channel.take_messages()
    batch = decode(message)
    assert isinstance(batch, TokenBatch)
    assert list(unpack_u32(batch.stream_ids)) == [2]


@given(
    steps=st.lists(st.lists(st.tuples(st.integers(1, 6), st.booleans()), unique_by=lambda row: row[0]), max_size=12),
    blocked=st.sets(st.integers(0, 11)),
)
def test_plain_tokens_and_rows_arrive_in_order_whatever_waits(
    steps: list[list[tuple[int, bool]]], blocked: set[int]
) -> None:
    channel = DetokenizerChannel(WORKER)
    given_ids: dict[int, list[int]] = {}
    found_ids: dict[int, list[int]] = {}
    for number, step in enumerate(steps):
        channel.begin_step()
        for stream_id, is_plain in step:
            ids = given_ids.setdefault(stream_id, [])
            if is_plain:
                channel.add_token(stream_id, len(ids), number)
            else:
                channel.add(TokenRow(stream_id, len(ids), [number]))
            ids.append(number)
        if number not in blocked:
            _receive(channel, found_ids)
    _receive(channel, found_ids)
    assert found_ids == given_ids
    assert not channel.has_pending


def _receive(channel: DetokenizerChannel, found_ids: dict[int, list[int]]) -> None:
    for message in channel.take_messages():
        batch = decode(message)
        assert isinstance(batch, TokenBatch)
        ids, start = unpack_u32(batch.token_ids), 0
        columns = map(unpack_u32, (batch.stream_ids, batch.first_indexes, batch.counts))
        for stream_id, first_index, count in zip(*columns, strict=True):
            found = found_ids.setdefault(stream_id, [])
            assert first_index == len(found)
            found += ids[start : start + count]
            start += count
