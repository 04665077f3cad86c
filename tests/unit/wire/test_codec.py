"""The wire contract: bytes of today and of earlier builds keep their meaning, and no bytes do harm."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.samples import SAMPLES
from wire.codec import UndecodableMessageError, decode, encode
from wire.messages import Abort, Heartbeat, Message, Peer, PresenceProbe


def lines_of(name: str) -> list[list[str]]:
    """What stands in a file beside this one, in words."""
    return [line.split() for line in Path(__file__).with_name(name).read_text("ascii").splitlines()]


GOLDEN = [bytes.fromhex(encoded) for _, encoded in lines_of("golden.txt")]
PAIRS = list(zip(SAMPLES, GOLDEN, strict=True))
NAMES = [f"{number}-{type(sample).__name__}" for number, sample in enumerate(SAMPLES)]
EARLIER = [(SAMPLES[int(number)], bytes.fromhex(encoded)) for number, encoded in lines_of("earlier.txt")]
"""What some samples were encoded to before their struct had 16 fields, which takes a longer header."""


def test_every_kind_of_message_has_golden_bytes() -> None:
    assert {type(sample) for sample in SAMPLES} == set(get_args(Message))


@pytest.mark.parametrize(("sample", "golden"), PAIRS, ids=NAMES)
def test_golden_bytes_mean_what_they_meant(sample: Message, golden: bytes) -> None:
    assert decode(golden) == sample


@pytest.mark.parametrize(("sample", "earlier"), EARLIER)
def test_what_an_earlier_build_sends_means_what_it_meant(sample: Message, earlier: bytes) -> None:
    assert decode(earlier) == sample


@pytest.mark.parametrize(("sample", "golden"), PAIRS, ids=NAMES)
def test_a_message_encodes_to_its_golden_bytes(sample: Message, golden: bytes) -> None:
    assert encode(sample) == golden


@pytest.mark.parametrize("sample", SAMPLES, ids=NAMES)
def test_a_field_that_a_later_build_appends_is_ignored(sample: Message) -> None:
    fields = msgspec.msgpack.decode(encode(sample))
    assert decode(msgspec.msgpack.encode(fields | {"appended_later": [1, {"a": 2}]})) == sample


def test_a_trailing_element_that_a_later_build_appends_to_an_array_is_ignored() -> None:
    later = msgspec.msgpack.encode({"type": "PresenceProbe", "sender": ["worker-1", 1, "appended later"]})
    assert decode(later) == PresenceProbe(Peer("worker-1", 1))


def test_a_field_that_an_earlier_build_did_not_send_has_its_default() -> None:
    earlier = {"type": "Heartbeat", "stage": "worker", "peer": ["worker-1", 1], "state": "ready"}
    message = decode(msgspec.msgpack.encode(earlier | {"served_model_name": "demo", "wire_level": 1}))
    assert isinstance(message, Heartbeat)
    assert message.num_pages_total == 0


def test_a_tag_of_a_later_build_is_undecodable() -> None:
    with pytest.raises(UndecodableMessageError, match="InventedLater"):
        decode(msgspec.msgpack.encode({"type": "InventedLater", "key": 1}))


def test_a_field_of_the_wrong_type_is_undecodable() -> None:
    with pytest.raises(UndecodableMessageError, match="key"):
        decode(msgspec.msgpack.encode({"type": "Abort", "sender": ["gateway-1", 1], "key": "seven"}))


def test_a_missing_field_is_undecodable() -> None:
    with pytest.raises(UndecodableMessageError, match="key"):
        decode(msgspec.msgpack.encode({"type": "Abort", "sender": ["gateway-1", 1]}))


def decodes_or_is_refused(raw: bytes) -> None:
    try:
        message = decode(raw)
    except UndecodableMessageError:
        return
    assert type(message) in get_args(Message)


@given(st.binary(max_size=400))
def test_random_bytes_are_refused_and_raise_nothing_else(raw: bytes) -> None:
    decodes_or_is_refused(raw)


@given(st.sampled_from(GOLDEN), st.data())
def test_damaged_messages_are_refused_and_raise_nothing_else(golden: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(golden) - 1))
    damaged = bytearray(golden)
    damaged[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    decodes_or_is_refused(bytes(damaged))


@pytest.mark.parametrize(
    "value",
    [b"\x91" * 100_000, b"\x81" + b"\x80" + b"\x01", b"\xdd" + b"\xff" * 4, b"\xa1\xff", b"\xd7\xff" + b"\xff" * 8],
    ids=["nested too deeply", "unhashable key", "four billion elements", "no UTF-8", "impossible time"],
)
def test_malice_inside_a_free_field_is_refused(value: bytes) -> None:
    start = msgspec.msgpack.encode({"type": "Description", "settings": {"a": None}})
    assert start.endswith(b"\xc0")
    with pytest.raises(UndecodableMessageError):
        decode(start[:-1] + value)


def test_an_abort_of_a_whole_request_names_no_choice() -> None:
    assert decode(encode(Abort(Peer("gateway-1", 1), 7))) == Abort(Peer("gateway-1", 1), 7, None)
