"""The soak runs, and its judge sees what is wrong."""

import argparse
import asyncio
import math
import os
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from tests.chaos.asks import greedy
from tests.chaos.clients import ChaosStream, Client, Shown, StreamError
from tests.chaos.equality import differences, is_beginning
from tests.chaos.faults import Action
from tests.chaos.fleet import Fleet
from tests.chaos.gate import Gate
from tests.chaos.judge import Judge
from tests.chaos.soak import FAULTS, faults_called, soak
from tests.chaos.soak_report import SoakReport, percentile

ANSWER = "Bonn. "
IDS = [5, 6, 7]
LOGPROBS = [-0.25, -1.5, -2.0]


async def test_a_short_soak_is_flawless(fleet: Fleet) -> None:
    report = await soak(fleet, minutes=2, max_faults=3, seed=1, num_streams=8)
    assert report.faults.total() == 3
    assert report.is_flawless, report.text()


async def test_an_interrupted_soak_reads_its_streams_to_their_ends(fleet: Fleet) -> None:
    before = signal.getsignal(signal.SIGINT)
    soaking = asyncio.create_task(soak(fleet, minutes=2, max_faults=1000, seed=1, num_streams=4, is_rapid=True))
    while signal.getsignal(signal.SIGINT) is before:
        assert not soaking.done()
        await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)
    report = await soaking
    assert report.faults.total() == 1
    assert report.is_flawless, report.text()


def test_faults_are_asked_for_by_whole_words_of_their_names() -> None:
    asked = faults_called("kill tokenizer,restart")
    assert [fault.name for fault in asked] == ["kill tokenizer", "restart the broker"]
    assert [fault.name for fault in faults_called("cut the link of worker")] == ["cut the link of worker"]
    assert len(faults_called("tokenizer")) == len(faults_called("detokenizer")) == 5
    assert faults_called("kill,pause,freeze,cut,drain,broker") == FAULTS


@pytest.mark.parametrize("name", ["stop", "kill,SIGTERM", "kill broker", "kill,", ""])
def test_a_name_of_no_fault_is_refused_with_the_words_that_there_are(name: str) -> None:
    words = "broker, cut, detokenizer, drain, freeze, gateway, kill, link, of, pause, restart, the, tokenizer, worker"
    with pytest.raises(argparse.ArgumentTypeError, match=f"words are {words}"):
        faults_called(name)


async def test_a_gate_that_closes_again_at_once_lets_nobody_pass() -> None:
    gate = Gate()
    gate.close()
    waiting = asyncio.create_task(gate.passed())
    await asyncio.sleep(0)
    gate.open()
    gate.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.open()
    await waiting


def stream() -> ChaosStream:
    """One that has been read, and would never be read again."""
    client = Client("http://127.0.0.1:9", {})
    read = ChaosStream(greedy(1), client, "gateway-1", lambda _: None)
    shown = Shown(ANSWER, list(IDS), list(LOGPROBS), {"type": "length", "length": 3}, len(IDS))
    read.choices, read.usage = {0: shown}, {"prompt_tokens": 4, "completion_tokens": 3}
    return read


def set_error(disturbed: ChaosStream) -> None:
    disturbed.error = StreamError("gone")


SPOILERS: list[Callable[[ChaosStream], object]] = [
    set_error,
    lambda disturbed: disturbed.choices[0].token_ids.append(7),
    lambda disturbed: setattr(disturbed.choices[0], "text", ANSWER[:-1]),
    lambda disturbed: setattr(disturbed.choices[0], "finish", {"type": "stop", "matched": 2}),
    lambda disturbed: disturbed.choices[0].logprobs.__setitem__(1, -1.501),
    lambda disturbed: disturbed.choices.update({1: Shown()}),
    lambda disturbed: disturbed.usage.update(completion_tokens=4),
]


def test_equal_streams_have_no_differences_and_rounding_is_none() -> None:
    disturbed = stream()
    disturbed.choices[0].logprobs[0] += 1e-9
    assert differences(disturbed, stream()) == []


@pytest.mark.parametrize("spoil", SPOILERS)
def test_whatever_differs_is_seen(spoil: Callable[[ChaosStream], object]) -> None:
    disturbed = stream()
    spoil(disturbed)
    assert len(differences(disturbed, stream())) == 1


def test_a_stream_that_was_cut_off_must_have_shown_a_beginning() -> None:
    cut_off = stream()
    cut_off.choices[0].text, cut_off.choices[0].token_ids = "Bo", [5]
    assert is_beginning(cut_off, stream())
    cut_off.choices[0].text = "Bo Bo"
    assert not is_beginning(cut_off, stream())


def refused(began_at: float, message: str = "The connection to NATS is lost. Try again later.") -> ChaosStream:
    turned_away = stream()
    turned_away.choices.clear()
    turned_away.began_at, turned_away.error = began_at, StreamError(f"HTTP 503: {message}")
    return turned_away


def counts(action: Action | None, turned_away: ChaosStream) -> tuple[int, int]:
    """Turned away and failed, when a gateway was struck and mended before the stream's end."""
    report = SoakReport()
    judge = Judge(report, {greedy(1): stream()})
    if action is not None:
        judge.note_struck(action, turned_away.gateway_id)
        judge.note_mended(turned_away.gateway_id)
    judge.take(turned_away)
    return report.num_turned_away, report.num_failed


def test_whoever_was_turned_away_by_a_gateway_that_was_cut_off_is_no_failure() -> None:
    assert counts(Action.CUT, refused(began_at=0.0)) == (1, 0)


def test_whoever_is_turned_away_by_a_gateway_that_was_there_has_failed() -> None:
    assert counts(None, refused(began_at=0.0)) == (0, 1)
    assert counts(Action.PAUSE, refused(began_at=0.0)) == (0, 1)
    assert counts(Action.CUT, refused(began_at=math.inf)) == (0, 1)
    assert counts(Action.CUT, refused(0.0, "No worker is ready. Try again later.")) == (0, 1)


def report_of(num_faults: int = 1, num_streams: int = 2, num_equal: int = 2, num_repeated: int = 0) -> SoakReport:
    report = SoakReport(num_streams=num_streams, num_equal=num_equal)
    report.faults["restart the broker"] = num_faults
    report.repeated["restart the broker"] = num_repeated
    return report


def test_a_soak_is_flawless_if_all_streams_were_equal_and_no_prefill_was_repeated() -> None:
    assert report_of().is_flawless


@pytest.mark.parametrize("flaw", [{"num_faults": 0}, {"num_streams": 3}, {"num_repeated": 1}])
def test_whatever_is_missing_from_a_flawless_soak_is_a_flaw(flaw: dict[str, int]) -> None:
    assert not report_of(**flaw).is_flawless


def test_whatever_was_prefilled_twice_is_told_with_what_was_attempted() -> None:
    report = report_of()
    report.note_repeated("kill detokenizer", 53, Counter({"silent resume": 2}))
    assert not report.is_flawless
    assert "fault 1, kill detokenizer: 53 tokens, attempts: 2 silent resume" in report.text()


def test_what_a_pause_is_beyond_an_absence_is_told_apart() -> None:
    report = report_of()
    report.note_pauses("restart the broker", [1.5, 1.25], absence_s=1.0)
    (line,) = (line for line in report.text().splitlines() if line.startswith("restart the broker"))
    assert line.split()[-5:] == ["1.25", "1.50", "1.50", "0.50", "0"]


def test_percentiles_are_measured_values() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
