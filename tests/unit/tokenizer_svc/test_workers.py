"""The choice of a worker."""

import pytest

from tests.unit.tokenizer_svc.jobs import MODEL_NAME, heartbeat
from tokenizer_svc.errors import RequestError
from tokenizer_svc.workers import choose_worker, longest_sequence
from wire.messages import ErrorCode, Heartbeat, InstanceState, Stage
from wire.presence import MemberTable


def members(*heartbeats: Heartbeat) -> MemberTable:
    table = MemberTable(timeout_s=2.0)
    for beat in heartbeats:
        table.hear(beat)
    return table


def worker(instance_id: str, **fields: object) -> Heartbeat:
    return heartbeat(Stage.WORKER, instance_id, **fields)


def reason(table: MemberTable, **conditions: object) -> str:
    with pytest.raises(RequestError) as caught:
        choose_worker(table, MODEL_NAME, **conditions)  # type: ignore[arg-type]
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert caught.value.is_retryable
    return caught.value.message


def test_the_less_loaded_of_two_is_chosen() -> None:
    table = members(worker("worker-1", num_running=5), worker("worker-2", num_waiting=3))
    assert choose_worker(table, MODEL_NAME).instance_id == "worker-2"


def test_own_sends_count_before_the_next_heartbeat() -> None:
    table = members(worker("worker-1"), worker("worker-2"))
    chosen = [choose_worker(table, MODEL_NAME).instance_id for _ in range(10)]
    assert sorted(chosen) == ["worker-1"] * 5 + ["worker-2"] * 5


def test_excluded_workers_are_never_chosen() -> None:
    table = members(worker("worker-1"), worker("worker-2", num_running=100))
    assert choose_worker(table, MODEL_NAME, excluded=["worker-1"]).instance_id == "worker-2"


def test_a_worker_that_hangs_in_a_step_is_never_chosen() -> None:
    hung = worker("worker-1", step_age_s=61.0)
    table = members(hung, worker("worker-2", num_running=100))
    assert choose_worker(table, MODEL_NAME).instance_id == "worker-2"
    assert "all 1 workers that could hang in a step" in reason(members(hung))


def test_a_resume_goes_only_to_the_same_model() -> None:
    table = members(worker("worker-1", model_fingerprint="a"), worker("worker-2", model_fingerprint="b", num_running=9))
    assert choose_worker(table, MODEL_NAME, fingerprint="b").instance_id == "worker-2"


def test_only_ready_workers_of_the_model_count() -> None:
    table = members(
        worker("worker-1", state=InstanceState.DRAINING),
        worker("worker-2", served_model_name="other"),
        heartbeat(Stage.DETOKENIZER, "detokenizer-1"),
    )
    assert reason(table) == f"No worker can take the request for {MODEL_NAME}: no worker is ready."


def test_the_refusal_says_that_all_are_excluded() -> None:
    assert "all 1 ready workers are excluded" in reason(members(worker("worker-1")), excluded=["worker-1"])


def test_the_refusal_names_the_fingerprint() -> None:
    table = members(worker("worker-1", model_fingerprint="a"))
    assert "none of the 1 ready workers has the model fingerprint b" in reason(table, fingerprint="b")


def test_a_sequence_may_be_as_long_as_the_smallest_worker_holds() -> None:
    told = members(worker("worker-1", context_length=900), worker("worker-2", context_length=700), worker("worker-3"))
    assert longest_sequence(told, MODEL_NAME) == 700
    assert longest_sequence(members(worker("worker-1")), MODEL_NAME) is None
