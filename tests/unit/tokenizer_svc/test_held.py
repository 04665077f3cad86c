"""What a tokenizer holds, reports and forgets."""

import asyncio

import pytest

from tests.unit.tokenizer_svc.jobs import GATEWAY, job
from tokenizer_svc.held import HeldRequests, progress_of
from wire.columns import pack_u32, unpack_u8, unpack_u32, unpack_u64
from wire.messages import Peer, SequenceStart

SENDER = Peer("tokenizer-1", 1)


@pytest.fixture
def held() -> HeldRequests:
    return HeldRequests()


def hold(held: HeldRequests, key: int, gateway: Peer = GATEWAY) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(_forever())
    held.hold(job(key, gateway=gateway), task)
    return task


async def _forever() -> None:
    await asyncio.Event().wait()


async def is_cancelled(task: asyncio.Task[None]) -> bool:
    await asyncio.wait([task], timeout=1)
    return task.cancelled()


async def test_an_abort_drops_the_request_and_is_remembered(held: HeldRequests) -> None:
    task = hold(held, 1)
    held.abort(1)
    assert await is_cancelled(task)
    assert 1 not in held
    assert held.is_aborted(1)


def test_an_abort_is_remembered_before_its_job(held: HeldRequests) -> None:
    held.abort(1)
    assert held.is_aborted(1)
    assert not held.is_aborted(2)


async def test_a_dead_gateways_requests_are_dropped_and_no_others(held: HeldRequests) -> None:
    dead, alive = hold(held, 1), hold(held, 2, Peer("gateway-2", 1))
    next_life = hold(held, 3, Peer(GATEWAY.instance_id, GATEWAY.epoch + 1))
    assert held.drop_requests_of(GATEWAY) == 1
    assert await is_cancelled(dead)
    assert 2 in held
    assert 3 in held
    held.drop_all()
    assert await is_cancelled(alive)
    assert await is_cancelled(next_life)


async def test_progress_goes_to_every_gateway_with_its_own_keys(held: HeldRequests) -> None:
    tasks = [hold(held, 1), hold(held, 2, Peer("gateway-2", 1)), hold(held, 3)]
    reports = {gateway: unpack_u64(report.keys).tolist() for gateway, report in held.progress(SENDER)}
    assert reports == {"gateway-1": [1, 3], "gateway-2": [2]}
    assert held.drop_all() == {"gateway-1": [1, 3], "gateway-2": [2]}
    assert [await is_cancelled(task) for task in tasks] == [True] * 3


def test_a_report_counts_the_ids_that_a_resume_brings() -> None:
    resumed = job(7, sequences=(SequenceStart(0, pack_u32([1, 2])), SequenceStart(2, pack_u32([3]))))
    report = progress_of(SENDER, [job(6), resumed], is_receipt=True)
    assert report.is_receipt
    assert unpack_u64(report.keys).tolist() == [6, 7]
    assert unpack_u32(report.num_output_tokens).tolist() == [0, 3]
    assert unpack_u8(report.states).tolist() == [0, 0]
