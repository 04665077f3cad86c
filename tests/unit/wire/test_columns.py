"""Columns give back what was put in, in little-endian bytes."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import columns


@given(st.lists(st.integers(0, 2**8 - 1)))
def test_u8_round_trip(values: list[int]) -> None:
    assert list(columns.unpack_u8(columns.pack_u8(values))) == values


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_u32_round_trip(values: list[int]) -> None:
    raw = columns.pack_u32(values)
    assert list(columns.unpack_u32(raw)) == values
    assert columns.count_u32(raw) == len(values)


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_u64_round_trip(values: list[int]) -> None:
    assert list(columns.unpack_u64(columns.pack_u64(values))) == values


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_f32_round_trip(values: list[float]) -> None:
    assert list(columns.unpack_f32(columns.pack_f32(values))) == values


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_bytes_are_little_endian(values: list[int]) -> None:
    assert columns.pack_u32(values) == b"".join(value.to_bytes(4, "little") for value in values)


def test_any_iterable_of_integers_is_packed() -> None:
    assert columns.pack_u32(value for value in (1, 2)) == columns.pack_u32(array("I", [1, 2]))


@pytest.mark.parametrize(
    ("pack", "limit"), [(columns.pack_u8, 2**8), (columns.pack_u32, 2**32), (columns.pack_u64, 2**64)]
)
def test_a_value_that_does_not_fit_is_refused(pack: object, limit: int) -> None:
    assert callable(pack)
    for value in (-1, limit):
        with pytest.raises(OverflowError):
            pack([value])


def test_a_column_of_broken_length_is_refused() -> None:
    for unpack in (columns.unpack_u32, columns.unpack_u64, columns.unpack_f32):
        with pytest.raises(ValueError, match="not a multiple"):
            unpack(b"\x00" * 7)
