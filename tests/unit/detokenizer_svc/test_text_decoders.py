"""One suite over both implementations of `Vocabulary`, on tokenizers of every shape."""

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from detokenizer_svc.byte_level import ByteLevelVocabulary
from detokenizer_svc.tokenizer_file import load_vocabulary
from detokenizer_svc.vocabulary import TextDecoder, Vocabulary
from detokenizer_svc.windowed import WindowedVocabulary
from tests.unit.detokenizer_svc import tiny_tokenizers as tiny

KINDS = {**tiny.ALL, "byte_level_in_sequence": lambda: tiny.byte_level(in_sequence=True)}


@cache
def pair(kind: str) -> tuple[Tokenizer, Vocabulary]:
    """The tokenizer, and the vocabulary as it is loaded from its file."""
    tokenizer = KINDS[kind]()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        tokenizer.save(str(file))
        return tokenizer, load_vocabulary(file)


@cache
def windowed_pair(kind: str) -> tuple[Tokenizer, Vocabulary]:
    tokenizer = KINDS[kind]()
    return tokenizer, WindowedVocabulary(tokenizer)


def start(vocabulary: Vocabulary, *, skip: bool = True, spaces: bool = True, tail: tuple[int, ...] = ()) -> TextDecoder:
    return vocabulary.decoder(skip_special_tokens=skip, spaces_between_special_tokens=spaces, prompt_tail=tail)


def decode_all(decoder: TextDecoder, ids: list[int]) -> str:
    return "".join(map(decoder.push, ids)) + decoder.flush()


def ids_below(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, size - 1), max_size=40)


def has_torn_run(tokenizer: Tokenizer, ids: list[int], *, skip: bool) -> bool:
    """Whether a run of byte tokens mixes whole characters with bad bytes: the one case that may differ."""
    special = {"<unk>", "<s>", "</s>"} if skip else set()
    tokens = [token for token in map(tokenizer.id_to_token, ids) if token not in special]
    raw = "".join(token if re.fullmatch(r"<0x..>", token) else "|" for token in tokens)
    runs = [bytes.fromhex(run.replace("<0x", "").replace(">", "")) for run in raw.split("|")]
    texts = [run.decode("utf-8", "replace") for run in runs]
    return any("\ufffd" in text and text.strip("\ufffd") for text in texts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [True, False])
@given(data=st.data())
def test_the_increments_add_up_to_the_full_decode(kind: str, skip: bool, data: st.DataObject) -> None:
    tokenizer, vocabulary = pair(kind)
    ids = data.draw(ids_below(tokenizer.get_vocab_size()))
    if kind == "byte_fallback" and has_torn_run(tokenizer, ids, skip=skip):
        return
    assert decode_all(start(vocabulary, skip=skip), ids) == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("make", [pair, windowed_pair])
@given(data=st.data())
def test_both_implementations_agree_on_a_byte_level_tokenizer(make: object, data: st.DataObject) -> None:
    tokenizer, vocabulary = make("byte_level")  # type: ignore[operator]
    text = data.draw(st.text(max_size=20)).replace("é", "")  # which is one bad byte in this tokenizer
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert decode_all(start(vocabulary), ids) == text


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@given(text=st.text(max_size=20))
def test_no_broken_character_is_emitted_before_the_end(kind: str, text: str) -> None:
    tokenizer, vocabulary = pair(kind)
    names = {"byte_level": chr_of, "byte_fallback": lambda b: f"<0x{b:02X}>"}
    ids = [tokenizer.token_to_id(names[kind](byte)) for byte in text.replace("\ufffd", "").encode()]
    decoder = start(vocabulary)
    pieces = [decoder.push(i) for i in ids]
    assert not any("\ufffd" in piece for piece in pieces)
    assert decoder.flush() == ""


def chr_of(byte: int) -> str:
    """The character of a byte in the alphabet of byte-level tokenizers, by way of the tokenizer itself."""
    return _alphabet()[byte]


@cache
def _alphabet() -> dict[int, str]:
    vocabulary = pair("byte_level")[1]
    tokenizer = pair("byte_level")[0]
    return {vocabulary.token_bytes(i)[0]: tokenizer.id_to_token(i) for i in range(256)}


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_an_incomplete_character_is_held_and_flushed_as_a_replacement(kind: str) -> None:
    tokenizer, vocabulary = pair(kind)
    first = tokenizer.token_to_id(chr_of(0xE4) if kind == "byte_level" else "<0xE4>")
    decoder = start(vocabulary)
    assert decoder.push(first) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_id_decodes_as_the_tokenizer_does(kind: str) -> None:
    tokenizer, vocabulary = pair(kind)
    for skip in (True, False):
        for token_id in range(tokenizer.get_vocab_size() + 3):
            expected = tokenizer.decode([token_id], skip_special_tokens=skip)
            assert decode_all(start(vocabulary, skip=skip), [token_id]) == expected, token_id


@pytest.mark.parametrize("kind", KINDS)
def test_ids_outside_of_the_vocabulary_have_no_text(kind: str) -> None:
    vocabulary = pair(kind)[1]
    assert decode_all(start(vocabulary), [2**32 - 1]) == ""
    assert vocabulary.token_bytes(2**32 - 1) == b""


def test_the_prompt_tail_keeps_the_space_in_front_of_the_first_word() -> None:
    tokenizer, vocabulary = pair("byte_fallback")
    hello, world = tokenizer.token_to_id("▁Hello"), tokenizer.token_to_id("▁world")
    assert start(vocabulary).push(world) == "world"
    assert start(vocabulary, tail=(hello,)).push(world) == " world"


def test_a_prompt_tail_that_ends_inside_a_character_does_no_harm() -> None:
    tokenizer, vocabulary = pair("byte_fallback")
    tail = (tokenizer.token_to_id("<0xE4>"), tokenizer.token_to_id("<0xBD>"))
    ids = [tokenizer.token_to_id("▁a")]
    assert decode_all(start(vocabulary, tail=tail), ids).strip() == "a"


def test_special_tokens_that_follow_each_other_can_go_without_spaces() -> None:
    vocabulary = pair("without_decoder")[1]
    ids = [0, 3, 4, 1]
    assert decode_all(start(vocabulary, skip=False), ids) == "one <s> <e> two"
    assert decode_all(start(vocabulary, skip=False, spaces=False), ids) == "one <s><e> two"


def test_a_space_that_the_decoder_strips_does_not_shorten_the_wait_for_a_character() -> None:
    tokenizer, vocabulary = pair("byte_fallback")
    decoder = start(vocabulary)
    crab = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "🦀".encode()]
    assert [decoder.push(i) for i in [tokenizer.token_to_id("▁"), *crab]] == ["", "", "", "", "🦀"]


def test_a_run_of_bad_bytes_is_given_out_while_it_lasts() -> None:
    tokenizer, vocabulary = pair("byte_fallback")
    bad = tokenizer.token_to_id("<0xFF>")
    decoder = start(vocabulary)
    assert "".join(decoder.push(bad) for _ in range(8)) == "\ufffd" * 8


def test_the_bytes_of_tokens_are_exact_for_byte_level_tokenizers() -> None:
    tokenizer, vocabulary = pair("byte_level")
    assert vocabulary.token_bytes(tokenizer.token_to_id("ä½")) == "你".encode()[:2]
    assert vocabulary.token_bytes(tokenizer.token_to_id("Ġw")) == b" w"
    assert vocabulary.token_bytes(tokenizer.token_to_id("<|end|>")) == b"<|end|>"
    assert vocabulary.token_bytes(tokenizer.token_to_id("<tool call>")) == b"<tool call>"


def test_the_bytes_of_other_tokens_keep_their_space() -> None:
    tokenizer, vocabulary = pair("byte_fallback")
    assert vocabulary.token_bytes(tokenizer.token_to_id("▁world")) == b" world"
    assert vocabulary.token_bytes(tokenizer.token_to_id("<0xE4>")) == b"\xe4"
    assert vocabulary.token_bytes(tokenizer.token_to_id("</s>")) == b"</s>"


def test_the_decoder_in_the_file_chooses_the_implementation() -> None:
    chosen = {kind: isinstance(pair(kind)[1], ByteLevelVocabulary) for kind in KINDS}
    assert {kind for kind, is_byte_level in chosen.items() if is_byte_level} == {"byte_level", "byte_level_in_sequence"}
