"""A worker whose kernels give nonsense, or whose memory is damaged: its requests end, and nobody else falls."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
import requests

from tests.pipeline.rogue_worker import RogueWorker, Script
from tests.pipeline.system import System, running_system
from wire.columns import pack_f32, pack_u32
from wire.messages import LogprobColumns, TokenBatch

NAN = float("nan")
NOT_NUMBERS = "logprobs that are no numbers"
ASK: dict[str, Any] = {"text": "Hello", "sampling_params": {"max_new_tokens": 3}, "return_logprob": True}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Without a worker."""
    with running_system(tmp_path_factory.mktemp("rogue"), workers=0) as running:
        yield running


def changed(**fields: Any) -> Script:
    return lambda batch: msgspec.structs.replace(batch, **fields)


def opened(**fields: Any) -> Script:
    def script(batch: TokenBatch) -> TokenBatch:
        return msgspec.structs.replace(batch, opens=(msgspec.structs.replace(batch.opens[0], **fields),))

    return script


def finished(**fields: Any) -> Script:
    def script(batch: TokenBatch) -> TokenBatch:
        return msgspec.structs.replace(batch, finishes=(msgspec.structs.replace(batch.finishes[0], **fields),))

    return script


def logprobs(chosen: list[float], num_top: list[int], top_ids: list[int], top: list[float]) -> Script:
    columns = LogprobColumns(pack_u32([0]), pack_f32(chosen), pack_u32(num_top), pack_u32(top_ids), pack_f32(top))
    return changed(logprobs=columns)


NONSENSE: dict[str, Script] = {
    "ids beyond the vocabulary": changed(token_ids=pack_u32([3072, 2**31, 5])),
    "minus one as an id": changed(token_ids=b"\xff" * 12),
    "half an id": changed(token_ids=b"\x01" * 11),
    "more ids than there are": changed(counts=pack_u32([2**32 - 1])),
    "fewer ids than there are": changed(counts=pack_u32([1])),
    "an index too high": changed(first_indexes=pack_u32([7])),
    "an index at the end of the world": changed(first_indexes=pack_u32([2**32 - 1])),
    "a stream that was not opened": changed(stream_ids=pack_u32([2**32 - 1])),
    "columns of unequal length": changed(stream_ids=pack_u32([1, 2, 3])),
    "a choice that was not asked for": opened(choice=5),
    "a negative choice": opened(choice=-1),
    "another key": opened(key=7),
    "text from nowhere": opened(text_len=2**40),
    "earlier output that never was": opened(output_ids=pack_u32([1, 2, 3])),
    "the end of a row that is not there": finished(row=9),
    "a negative row": finished(row=-1),
    NOT_NUMBERS: logprobs([NAN] * 3, [1], [10, 11, 12], [NAN, float("inf"), -0.5]),
    "too few logprobs": logprobs([-0.5], [1], [10], [-0.5]),
    "alternatives beyond the vocabulary": logprobs([-0.5] * 3, [1], [2**32 - 1] * 3, [-0.5] * 3),
}


HARMLESS = {NOT_NUMBERS, "alternatives beyond the vocabulary"}


def ask(system: System, kind: str) -> requests.Response:
    return requests.post(f"{system.url}/generate", json=ASK | {"rid": kind}, timeout=120)


@pytest.fixture(scope="module")
def answers(system: System) -> Iterator[dict[str, requests.Response]]:
    """To one request of each kind, all at once, since each is tried often before it fails."""
    rogue = RogueWorker(system.nats_url, NONSENSE)
    try:
        system.wait_until_sees(rogue.instance_id)
        with ThreadPoolExecutor(len(NONSENSE) + 1) as pool:
            futures = {kind: pool.submit(ask, system, kind) for kind in ("honest", *NONSENSE)}
            yield {kind: future.result() for kind, future in futures.items()}
    finally:
        rogue.leave()


def test_an_honest_answer_of_this_worker_is_served(answers: dict[str, requests.Response]) -> None:
    assert answers["honest"].status_code == 200
    assert answers["honest"].json()["output_ids"] == [10, 11, 12]


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_ends_in_a_clear_error(answers: dict[str, requests.Response], kind: str) -> None:
    answer = answers[kind]
    if kind in HARMLESS:
        assert answer.json()["output_ids"] == [10, 11, 12]
        values = [value for value, *_ in answer.json()["meta_info"]["output_token_logprobs"]]
        assert values == ([None] * 3 if kind == NOT_NUMBERS else [-0.5] * 3)
    else:
        assert answer.status_code == 500
        assert "made no progress" in answer.json()["error"]["message"]


def test_nobody_falls_and_nothing_is_held(system: System, answers: dict[str, requests.Response]) -> None:
    assert len(answers) == len(NONSENSE) + 1
    assert len(system.instance_ids) == 3
    system.at_rest()
