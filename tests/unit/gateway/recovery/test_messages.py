"""Reports that make no sense, strangers, refusals, and news of past attempts."""

from gateway.inflight.generation import Cause
from tests.unit.gateway.recovery.rig import Rig, fail
from tests.unit.gateway.streams import (
    TOKENIZER,
    WORKER,
)
from wire.columns import pack_u8, pack_u32
from wire.messages import (
    ErrorCode,
    Failed,
    Peer,
    Progress,
    Stage,
)


def test_a_report_whose_columns_do_not_fit_together_is_counted_and_says_nothing(rig: Rig) -> None:
    rig.run()
    broken = Progress(
        sender=WORKER, keys=b"", states=pack_u8([1]), queue_positions=b"", num_output_tokens=pack_u32([7])
    )
    for _ in range(9):
        rig.clock.now += 0.5
        rig.recovery.reports.progress(broken)
        rig.report(WORKER, 1)

    assert rig.counted.malformed == 9
    assert rig.cause is None


def test_an_unknown_key_is_answered_by_an_abort_to_all(rig: Rig) -> None:
    rig.report(WORKER, 1, 77)

    assert rig.recovery.outbox.take_aborts() == [("", 77)]
    assert rig.counted.unknown == 1


def test_an_unknown_key_is_answered_once_in_three_seconds(rig: Rig) -> None:
    num_answers = 0
    for _ in range(20):
        rig.report(WORKER, 77)
        rig.report(TOKENIZER, 77)
        num_answers += len(rig.recovery.outbox.take_aborts())
        rig.wait(0.5)
    assert num_answers == 4
    rig.report(WORKER, 78)
    assert rig.recovery.outbox.take_aborts() == [("", 78)]


def refuse(rig: Rig, sender: Peer = WORKER) -> None:
    """It can never serve it."""
    assert rig.generation.attempt is not None
    refusal = Failed(
        key=rig.generation.attempt.key, sender=sender, code=ErrorCode.INVALID_REQUEST, message="the cache is too small"
    )
    rig.recovery.failed(refusal)


def test_a_resume_that_one_worker_refuses_may_fit_another(rig: Rig) -> None:
    rig.run()
    rig.retry(2, is_resume=True)
    rig.beat(Stage.WORKER, peer=Peer("worker-2", 1), model_fingerprint="f")
    rig.beat(Stage.WORKER, peer=Peer("worker-3", 1), model_fingerprint="another")
    refuse(rig)
    assert rig.cause is Cause.REFUSED
    assert rig.generation.suspects == {WORKER.instance_id}
    assert rig.generation.num_crashes == 0

    rig.retry(3, is_resume=True)
    refuse(rig, Peer("worker-2", 1))
    assert [(error.status, error.message) for error in rig.ended.failed] == [(400, "the cache is too small")]


def test_what_the_first_worker_or_a_tokenizer_refuses_is_the_clients_error(rig: Rig) -> None:
    rig.beat(Stage.WORKER, peer=Peer("worker-2", 1), model_fingerprint="f")
    rig.run()
    refuse(rig)
    assert [error.status for error in rig.ended.failed] == [400]

    rig.retry(2, is_resume=True)
    refuse(rig, TOKENIZER)
    assert [error.status for error in rig.ended.failed] == [400, 400]


def test_messages_about_past_attempts_change_nothing(rig: Rig) -> None:
    rig.run()
    rig.recovery.gap(rig.generation)
    rig.retry(2)
    rig.recovery.unreachable(1)
    fail(rig, ErrorCode.INTERNAL, key=1)

    assert rig.generation.attempt is not None
    assert rig.generation.attempt.key == 2
