"""Messages that no build of ours would write: real ones with a field or a byte changed, and plain noise."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from tests.unit.wire.samples import SAMPLES
from wire.codec import encode
from wire.messages import Message

Path = tuple[Any, ...]

ODD_VALUES: dict[type, list[Any]] = {
    type(None): [None],
    bool: [True, False],
    int: [-(2**63), -1, 0, 1, 2, 31, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1],
    float: [-1.0, 0.0, 0.5, float("nan"), float("inf"), float("-inf"), 1e308],
    str: ["", "x", "mr.v1.*.>", "a b", "\x00", "😀" * 30, "stop", "ready", "leaving"],
    bytes: [b"", b"\x00", b"\x00" * 4, b"\x00" * 8, b"\xff" * 4, b"\xff" * 8, b"\x01\x00\x00\x00" * 3, b"\x00" * 64],
    list: [[], [None], [[]], [1, 2, 3], ["x", 2**40], ["no.dots", 1]],
    dict: [{}, {"type": "Abort"}, {"a": {"b": []}}],
}
_ANY_ODD_VALUE = [value for values in ODD_VALUES.values() for value in values]


def messages_as_trees(names: Mapping[str, str], samples: Sequence[Message] = SAMPLES) -> st.SearchStrategy[Any]:
    """The samples as plain values; `names` replaces instance ids, so that a message seems to come from a real one."""
    trees = [_renamed(msgspec.msgpack.decode(encode(sample)), names) for sample in samples]
    return st.integers(0, len(trees) - 1).map(lambda number: trees[number])  # sampled_from would print all


def hostile_payloads(names: Mapping[str, str]) -> st.SearchStrategy[bytes]:
    """Bytes to publish: most of them nearly a message."""
    changed_fields = messages_as_trees(names).flatmap(_with_a_changed_field)
    whole = messages_as_trees(names).map(msgspec.msgpack.encode)
    return changed_fields | changed_fields | whole | whole.flatmap(_with_changed_bytes) | st.binary(max_size=200)


def _renamed(tree: Any, names: Mapping[str, str]) -> Any:
    if isinstance(tree, dict):
        return {key: _renamed(value, names) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_renamed(value, names) for value in tree]
    return names.get(tree, tree) if isinstance(tree, str) else tree


def _with_a_changed_field(tree: Any) -> st.SearchStrategy[bytes]:
    """Mostly by a value of the same type, so that the message decodes and somebody has to make sense of it."""
    paths = list(_paths(tree))
    if not paths:
        return st.just(msgspec.msgpack.encode(tree))

    def changed_at(path: Path) -> st.SearchStrategy[Any]:
        same_type = st.sampled_from(ODD_VALUES[type(_at(tree, path))])
        values = st.one_of(same_type, same_type, same_type, st.sampled_from(_ANY_ODD_VALUE))
        changed = values.map(lambda value: _changed(tree, path, value, is_removed=False))
        return st.one_of(changed, changed, changed, st.just(_changed(tree, path, None, is_removed=True)))

    return st.sampled_from(paths).flatmap(changed_at).map(msgspec.msgpack.encode)


def _at(tree: Any, path: Path) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def _paths(tree: Any, path: Path = ()) -> Iterator[Path]:
    """The way to every value, the tag excepted."""
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, value in steps:
        if (*path, step) != ("type",):
            yield (*path, step)
            yield from _paths(value, (*path, step))


def _changed(tree: Any, path: Path, value: Any, *, is_removed: bool) -> Any:
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    step, *rest = path
    if rest:
        copy[step] = _changed(copy[step], tuple(rest), value, is_removed=is_removed)
    elif is_removed:
        del copy[step]
    else:
        copy[step] = value
    return copy


def _with_changed_bytes(payload: bytes) -> st.SearchStrategy[bytes]:
    places = st.integers(0, max(0, len(payload) - 1))
    flipped = st.builds(
        lambda at, value: payload[:at] + bytes([value]) + payload[at + 1 :], places, st.integers(0, 255)
    )
    cut = places.map(lambda at: payload[:at])
    doubled = places.map(lambda at: payload[:at] + payload)
    return flipped | cut | doubled
