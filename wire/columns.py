"""Columns of integers and floats as raw little-endian bytes: what a batch carries instead of lists.

Decoding 200 k ids as raw bytes takes 20 µs, as a msgpack list 4.8 ms.
"""

import sys
from array import array
from collections.abc import Iterable

_SWAP = sys.byteorder == "big"


def _pack(typecode: str, values: Iterable[int] | Iterable[float]) -> bytes:
    column = array(typecode, values)
    if _SWAP:
        column.byteswap()
    return column.tobytes()


def _unpack(typecode: str, raw: bytes) -> "array[int]":
    column = array(typecode)
    column.frombytes(raw)
    if _SWAP:
        column.byteswap()
    return column


def pack_u8(values: Iterable[int]) -> bytes:
    """One byte per value; raises OverflowError outside 0..255."""
    return _pack("B", values)


def pack_u32(values: Iterable[int]) -> bytes:
    """Four bytes per value; raises OverflowError outside 0..2**32-1."""
    return _pack("I", values)


def pack_u64(values: Iterable[int]) -> bytes:
    """Eight bytes per value; raises OverflowError outside 0..2**64-1."""
    return _pack("Q", values)


def pack_f32(values: Iterable[float]) -> bytes:
    """Four bytes per value, rounded to single precision."""
    return _pack("f", values)


def unpack_u8(raw: bytes) -> "array[int]":
    """The values of a `pack_u8` column."""
    return _unpack("B", raw)


def unpack_u32(raw: bytes) -> "array[int]":
    """The values of a `pack_u32` column; raises ValueError if the length is not a multiple of four."""
    return _unpack("I", raw)


def unpack_u64(raw: bytes) -> "array[int]":
    """The values of a `pack_u64` column; raises ValueError if the length is not a multiple of eight."""
    return _unpack("Q", raw)


def unpack_f32(raw: bytes) -> "array[float]":
    """The values of a `pack_f32` column; raises ValueError if the length is not a multiple of four."""
    return _unpack("f", raw)  # type: ignore[return-value]


def count_u32(raw: bytes) -> int:
    """How many values a `pack_u32` column holds."""
    return len(raw) // 4
