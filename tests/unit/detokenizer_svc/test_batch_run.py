"""Token batches to text batches: continuity, stops, resumes, gaps. No bus."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from detokenizer_svc.attempts import AttemptTable
from detokenizer_svc.batch_run import BatchProcessor, Outcome
from detokenizer_svc.hop_metrics import DetokenizerMetrics
from detokenizer_svc.hop_spans import HopSpans
from detokenizer_svc.tokenizer_file import load_vocabulary
from detokenizer_svc.vocabulary import Vocabulary
from tests.unit.detokenizer_svc import tiny_tokenizers as tiny
from tests.unit.detokenizer_svc.batches import (
    GATEWAY,
    WORKER,
    Received,
    batch,
    finish,
    floats,
    opened,
    rows_of,
    settings,
)
from wire.codec import encode
from wire.columns import pack_f32, pack_u32, unpack_u32
from wire.messages import FinishReason, LogprobColumns, Peer, Stage, TextBatch, TokenBatch
from wire.telemetry import Tracing

ME = Peer("detokenizer-1", 1)
NOW_NS = 99


@cache
def vocabulary(kind: str = "byte_level") -> Vocabulary:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        tiny.ALL[kind]().save(str(file))
        return load_vocabulary(file)


@cache
def token_ids() -> dict[bytes, int]:
    return {vocabulary().token_bytes(token_id): token_id for token_id in range(vocabulary().size - 1, -1, -1)}


def ids(*tokens: str) -> list[int]:
    """The ids of tokens by their text; a text that is no token goes byte by byte."""
    known = token_ids()
    return [
        token_id
        for token in tokens
        for token_id in (
            [known[token.encode()]] if token.encode() in known else [known[bytes([b])] for b in token.encode()]
        )
    ]


class Rig:
    """A processor, and what it said."""

    def __init__(self, kind: str = "byte_level", max_bytes: int = 1 << 20, num_ids: int = 0) -> None:
        self.metrics = DetokenizerMetrics(CollectorRegistry())
        self.table = AttemptTable(HopSpans(Tracing("", 1.0, Stage.DETOKENIZER, "d"), "m", "s"))
        self.processor = BatchProcessor(lambda: ME, vocabulary(kind), self.table, self.metrics, max_bytes, num_ids)

    def run(self, message: TokenBatch) -> Outcome:
        return self.processor.process(message, NOW_NS)

    def text(self, message: TokenBatch) -> TextBatch:
        ((gateway_id, text_batch),) = self.run(message).texts
        assert gateway_id == GATEWAY.instance_id
        return text_batch


def test_the_first_row_says_what_is_known_of_the_prompt() -> None:
    rig = Rig()
    first = rig.text(batch([(7, 0, ids("a"))], opens=[opened(7, 1)]))
    assert first.detokenizer == ME
    assert first.worker == WORKER
    assert [(start.row, start.num_prompt_tokens, start.cached_tokens) for start in first.starts] == [(0, 5, 2)]
    assert rig.text(batch([(7, 1, ids("b"))])).starts == ()


def test_ids_of_held_text_travel_at_once() -> None:
    rig = Rig()
    message = rig.text(batch([(7, 0, ids("x", "l"))], opens=[opened(7, 1, settings(stop=("lo",)))]))
    (row,) = rows_of(message)
    assert (row.ids, row.text) == (ids("x", "l"), "x")
    (row,) = rows_of(rig.text(batch([(7, 2, ids("a"))])))
    assert (row.text_offset, row.text) == (1, "la")


def test_a_stop_string_cuts_the_row_ends_the_stream_and_aborts_at_the_worker() -> None:
    rig = Rig()
    given_ids = ids("a", "E", "N", "D", "z")
    outcome = rig.run(batch([(7, 0, given_ids)], opens=[opened(7, 1, settings(stop=("END",)))]))
    (row,) = rows_of(outcome.texts[0][1])
    (end,) = outcome.texts[0][1].finishes
    assert (row.ids, row.text) == (given_ids[:4], "a")
    assert (end.reason, end.matched, end.num_output_tokens) == (FinishReason.STOP, "END", 4)
    assert [(abort.sender, abort.key, abort.choice) for abort in outcome.aborts] == [(ME, 1, 0)]
    assert rig.table.num_streams == 0


def test_rows_behind_a_stop_string_are_ignored_until_the_worker_ends_the_stream() -> None:
    rig = Rig()
    rig.run(batch([(7, 0, ids("E"))], opens=[opened(7, 1, settings(stop=("E",)))]))
    assert rig.run(batch([(7, 1, ids("a"))])) == Outcome()
    assert rig.run(batch([(7, 2, ids("b"))], finishes=[finish(0)])) == Outcome()
    assert rig.metrics.counts["unknown_streams"] == 0
    rig.run(batch([(7, 3, ids("c"))]))
    assert rig.metrics.counts["unknown_streams"] == 1


def test_a_stop_string_wins_over_the_finish_of_the_worker() -> None:
    rig = Rig()
    message = rig.text(
        batch([(7, 0, ids("a", "E"))], opens=[opened(7, 1, settings(stop=("E",)))], finishes=[finish(0, num=2)])
    )
    (end,) = message.finishes
    assert (end.reason, end.matched, end.finished_ns, end.detokenized_ns) == (FinishReason.STOP, "E", 14, NOW_NS)


@pytest.mark.parametrize(("no_stop_trim", "text"), [(False, "ab"), (True, "ab.")])
def test_the_text_of_a_matched_stop_token_is_trimmed_unless_asked_for(no_stop_trim: bool, text: str) -> None:
    given_ids = ids("a", "b", ".")
    stop = finish(0, FinishReason.STOP, matched=given_ids[-1], num=3)
    given = settings(no_stop_trim=no_stop_trim, stop=("b.",))
    message = Rig().text(batch([(7, 0, given_ids)], opens=[opened(7, 1, given)], finishes=[stop]))
    (row,) = rows_of(message)
    (end,) = message.finishes
    assert (row.ids, row.text) == (given_ids, text)
    assert (end.reason, end.matched, end.num_output_tokens) == (FinishReason.STOP, given_ids[-1], 3)


def test_stop_strings_do_not_match_before_the_minimum_of_tokens() -> None:
    rig = Rig()
    received = Received()
    given = settings(stop=("b",), min_new_tokens=3)
    received.apply(rig.text(batch([(7, 0, ids("a", "b"))], opens=[opened(7, 1, given)])))
    received.apply(rig.text(batch([(7, 2, ids("b"))])))
    assert received.text == "ab"
    assert received.finish is not None
    assert received.finish.num_output_tokens == 3


def test_an_incomplete_character_at_the_end_becomes_a_replacement() -> None:
    rig = Rig()
    received = Received()
    received.apply(rig.text(batch([(7, 0, ids("a", "你")[:3])], opens=[opened(7, 1)])))
    assert received.text == "a"
    received.apply(rig.text(batch([(7, 3, [])], finishes=[finish(0, num=3)])))
    assert received.text == "a\ufffd"
    assert rig.table.num_streams == len(rig.table) == 0


def test_text_offsets_count_code_points() -> None:
    rig = Rig()
    rig.run(batch([(7, 0, ids("日本", "🦀"))], opens=[opened(7, 1)]))
    (row,) = rows_of(rig.text(batch([(7, 5, ids("a"))])))
    assert row.text_offset == 3


def test_rows_of_several_gateways_go_to_each_in_one_batch() -> None:
    rig = Rig()
    other = settings(gateway=Peer("gateway-2", 1))
    opens = [opened(1, 1), opened(2, 2, other), opened(3, 3)]
    outcome = rig.run(batch([(1, 0, ids("a")), (2, 0, ids("b")), (3, 0, ids("c"))], opens=opens))
    texts = {gateway_id: message.texts for gateway_id, message in outcome.texts}
    assert texts == {"gateway-1": ["a", "c"], "gateway-2": ["b"]}
    assert len(outcome.texts) == 2


def test_a_batch_that_would_be_too_large_is_split() -> None:
    rig = Rig(max_bytes=10_000)
    received = Received()
    opens = [opened(1, 1), opened(2, 2)]
    a = ids("a") * 5000
    outcome = rig.run(batch([(1, 0, a), (2, 0, ids("b") * 5000)], opens=opens, finishes=[finish(0, num=5000)]))
    assert len(outcome.texts) > 4
    assert all(len(encode(message)) < 30_000 for _, message in outcome.texts)
    for _, message in outcome.texts:
        received.apply(message)
    assert (received.ids, received.text) == (a, "a" * 5000)
    assert received.finish is not None


def test_rows_of_an_unknown_stream_are_dropped_and_counted() -> None:
    rig = Rig()
    assert rig.run(batch([(7, 0, ids("a"))])) == Outcome()
    assert rig.metrics.counts["unknown_streams"] == 1


def test_a_gap_closes_the_stream_and_tells_its_gateway() -> None:
    rig = Rig()
    rig.run(batch([(7, 0, ids("a"))], opens=[opened(7, 1)]))
    outcome = rig.run(batch([(7, 2, ids("c"))]))
    ((gateway_id, failed),) = outcome.failures
    assert (gateway_id, failed.key, failed.choice, failed.is_retryable) == ("gateway-1", 1, 0, True)
    assert rig.metrics.counts["gaps"] == 1
    assert rig.table.num_streams == 0
    assert rig.run(batch([(7, 3, ids("d"))])) == Outcome()


def test_equal_stream_ids_of_two_lives_of_a_worker_are_different_streams() -> None:
    rig = Rig()
    again = Peer(WORKER.instance_id, 2)
    rig.run(batch([(7, 0, ids("a"))], opens=[opened(7, 1)]))
    rig.run(batch([(7, 0, ids("x"))], opens=[opened(7, 2)], worker=again))
    assert rig.text(batch([(7, 1, ids("b"))])).texts == ["b"]
    assert rig.text(batch([(7, 1, ids("y"))], worker=again)).texts == ["y"]


@pytest.mark.parametrize("with_row", [False, True])
def test_ids_that_complete_a_stop_string_already_end_the_stream_at_once(with_row: bool) -> None:
    rows = [(7, 4, ids("z"))] if with_row else []
    rig = Rig()
    given_ids = ids("a", "E", "N", "D")
    message = rig.text(batch(rows, opens=[opened(7, 1, settings(stop=("END",)), ids=given_ids, text_len=1)]))
    (row,) = rows_of(message)
    (end,) = message.finishes
    assert (row.first_index, row.ids, row.text_offset, row.text) == (4, [], 1, "")
    assert (end.matched, end.num_output_tokens) == ("END", 4)
    assert rig.table.num_streams == 0
    assert rig.metrics.counts["unknown_streams"] == 0


def test_a_resume_owes_the_text_that_was_not_delivered() -> None:
    rig = Rig()
    message = rig.text(batch([(7, 3, ids("d"))], opens=[opened(7, 1, ids=ids("a", "b", "c"), text_len=1)]))
    (row,) = rows_of(message)
    assert (row.first_index, row.ids, row.text_offset, row.text) == (3, ids("d"), 1, "bcd")


def test_text_that_was_delivered_already_is_left_out() -> None:
    rig = Rig()
    rig.run(batch([(7, 1, ids("b"))], opens=[opened(7, 1, ids=ids("a"), text_len=3)]))
    (row,) = rows_of(rig.text(batch([(7, 2, ids("c", "d"))])))
    assert (row.text_offset, row.text) == (3, "d")


def test_a_resume_of_a_finished_sequence_trims_its_stop_token() -> None:
    given_ids = ids("a", ".")
    stop = finish(0, FinishReason.STOP, matched=given_ids[-1], num=2)
    message = Rig().text(batch([(7, 2, [])], opens=[opened(7, 1, ids=given_ids)], finishes=[stop]))
    assert message.texts == ["a"]


def test_logprobs_carry_the_bytes_of_every_token() -> None:
    given_ids = ids("a", "你")[:2]
    alternatives = ids("b", "c", "d", "e")
    columns = LogprobColumns(
        pack_u32([1]), pack_f32([-1.0, -2.0]), pack_u32([2]), pack_u32(alternatives), pack_f32([-3, -4, -5, -6])
    )
    rows = [(1, 0, ids("z")), (2, 0, given_ids)]
    message = Rig().text(batch(rows, opens=[opened(1, 1), opened(2, 2)], logprobs=columns))
    assert message.logprobs is not None
    assert list(unpack_u32(message.logprobs.rows)) == [1]
    assert message.logprobs.texts == [b"a", "你".encode()[:1]]
    assert message.logprobs.top_texts == [b"b", b"c", b"d", b"e"]
    assert floats(message.logprobs.chosen) == [-1.0, -2.0]


def test_logprobs_behind_a_stop_string_are_cut() -> None:
    given_ids = ids("a", "E", "z")
    columns = LogprobColumns(
        pack_u32([0]), pack_f32([-1, -2, -3]), pack_u32([1]), pack_u32(given_ids), pack_f32([-1, -2, -3])
    )
    given = settings(stop=("E",))
    message = Rig().text(batch([(1, 0, given_ids)], opens=[opened(1, 1, given)], logprobs=columns))
    assert message.logprobs is not None
    assert message.logprobs.texts == message.logprobs.top_texts == [b"a", b"E"]
    assert floats(message.logprobs.top) == floats(message.logprobs.chosen) == [-1.0, -2.0]


@pytest.mark.parametrize(
    "broken",
    [
        {"counts": pack_u32([2])},
        {"counts": b""},
        {"token_ids": b"abc"},
        {"finishes": (finish(4),)},
        {"logprobs": LogprobColumns(pack_u32([5]), b"", pack_u32([1]), b"", b"")},
        {"logprobs": LogprobColumns(pack_u32([0]), b"", pack_u32([1]), b"", b"")},
        {"opens": (opened(7, 2**64),)},
        {"opens": (opened(7, 1, choice=-1),)},
        {"opens": (opened(7, 1, settings(gateway=Peer("a.b >", 1))),)},
    ],
)
def test_a_batch_that_does_not_fit_together_is_dropped_and_counted(broken: dict[str, object]) -> None:
    rig = Rig()
    whole = batch([(7, 0, ids("a"))], opens=[opened(7, 1)])
    fields = {name: getattr(whole, name) for name in whole.__struct_fields__}
    assert rig.run(TokenBatch(**{**fields, **broken})) == Outcome()
    assert rig.metrics.counts["malformed_batches"] == 1


stop_settings = st.builds(
    settings,
    stop=st.lists(st.sampled_from(["l", "ll", "lo ", "你l", "wo", "el", " "]), max_size=3).map(tuple),
    no_stop_trim=st.booleans(),
    skip_special_tokens=st.booleans(),
    min_new_tokens=st.integers(0, 6),
)
outputs = st.lists(
    st.sampled_from(["l", "ll", "e", "o", " ", " w", "你", "你l", "🦀", "<|end|>", "日本"]), min_size=1, max_size=10
).map(lambda tokens: ids(*tokens))


def whole_stream(given: object, output: list[int], cuts: list[int]) -> Received:
    """The output in the batches that `cuts` make of it."""
    rig, received = Rig(), Received()
    first = 0
    for number, end in enumerate([*sorted(cuts), len(output)]):
        opens = [opened(7, 1, given)] if number == 0 else []  # type: ignore[arg-type]
        finishes = [finish(0, num=len(output))] if end == len(output) else []
        for _, message in rig.run(batch([(7, first, output[first:end])], opens=opens, finishes=finishes)).texts:
            received.apply(message)
        if received.finish is not None:
            break
        first = end
    assert rig.table.num_streams == len(rig.table) == 0
    return received


@given(given=stop_settings, output=outputs, data=st.data())
def test_text_ids_and_end_do_not_depend_on_how_the_ids_were_batched(
    given: object, output: list[int], data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(output) - 1), max_size=5))
    token_by_token = whole_stream(given, output, list(range(len(output))))
    assert whole_stream(given, output, cuts).seen() == token_by_token.seen()


@given(given=stop_settings, output=outputs, data=st.data())
def test_a_stream_that_is_cut_anywhere_and_resumed_ends_up_the_same(
    given: object, output: list[int], data: st.DataObject
) -> None:
    undisturbed = whole_stream(given, output, [])
    cut = data.draw(st.integers(0, len(output)))
    received = Received()
    for _, message in Rig().run(batch([(7, 0, output[:cut])], opens=[opened(7, 1, given)])).texts:  # type: ignore[arg-type]
        received.apply(message)
    if received.finish is None:
        again = opened(3, 1, given, ids=output[:cut], text_len=len(received.text))  # type: ignore[arg-type]
        rest = batch([(3, cut, output[cut:])], opens=[again], finishes=[finish(0, num=len(output))])
        for _, message in Rig().run(rest).texts:
            received.apply(message)
    assert received.seen() == undisturbed.seen()


def test_an_id_that_the_model_does_not_have_ends_its_stream_and_no_other() -> None:
    rig = Rig(num_ids=1000)
    outcome = rig.run(batch([(7, 0, [*ids("a"), 1000]), (8, 0, ids("b"))], opens=[opened(7, 1), opened(8, 2)]))
    ((gateway_id, failed),) = outcome.failures
    assert gateway_id == GATEWAY.instance_id
    assert (failed.key, failed.is_retryable) == (1, True)
    assert failed.message == "the worker gave the token id 1000, and the model has 1000 ids"
    ((_, text_batch),) = outcome.texts
    assert text_batch.texts == ["b"]
    assert rig.metrics.counts["nonsense_ids"] == 1
    assert rig.table.num_streams == 1
