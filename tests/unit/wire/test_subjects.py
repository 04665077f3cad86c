"""Subjects are made from validated parts, so no name can reach where it should not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import subjects
from wire.messages import Stage

TOKEN = re.compile(r"[A-Za-z0-9_-]+\Z")


def test_the_subjects_of_the_contract() -> None:
    assert subjects.gateway("gateway-1") == "mr.v1.gateway.gateway-1"
    assert subjects.data("abc", Stage.WORKER, "w1") == "mr.v1.abc.worker.w1"
    assert subjects.control("abc", Stage.WORKER, "w1") == "mr.v1.abc.worker.w1.control"
    assert subjects.rpc("abc", Stage.TOKENIZER, "t1") == "mr.v1.abc.tokenizer.t1.rpc"
    assert subjects.abort("abc") == "mr.v1.abc.abort"
    assert subjects.kv("abc", "w1") == "mr.v1.abc.kv.w1"
    assert subjects.presence(Stage.GATEWAY, "g1") == "mr.v1.presence.gateway.g1"


@given(st.text())
def test_every_served_name_becomes_one_subject_token(name: str) -> None:
    assert TOKEN.match(subjects.model_key(name))


def test_names_with_dots_and_slashes_stay_apart() -> None:
    names = ["Qwen/Qwen2.5-0.5B-Instruct", "Qwen.Qwen2/5-0.5B-Instruct", "qwen/qwen2.5-0.5b-instruct", "a b", "*", ">"]
    assert len({subjects.model_key(name) for name in names}) == len(names)


def test_the_key_of_a_name_never_changes() -> None:
    assert subjects.model_key("demo") == "f3c0798e6832"


@pytest.mark.parametrize("bad", ["", "a.b", "a b", "*", ">", "a\n", "ä", "a" * 65])
def test_an_id_that_could_widen_a_subject_is_refused(bad: str) -> None:
    for make in (subjects.gateway, lambda name: subjects.data("abc", Stage.WORKER, name)):
        with pytest.raises(ValueError, match="instance id"):
            make(bad)


def test_instance_ids_are_valid_unique_and_name_their_stage() -> None:
    ids = {subjects.new_instance_id(Stage.WORKER) for _ in range(100)}
    assert len(ids) == 100
    for instance_id in ids:
        assert instance_id.startswith("worker-")
        assert subjects.gateway(instance_id)
