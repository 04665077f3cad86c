"""Finding a tokenizer, and saying plainly what is wrong with it."""

from pathlib import Path

import pytest

from detokenizer_svc.byte_level import ByteLevelVocabulary
from detokenizer_svc.tokenizer_file import find_tokenizer_file, is_byte_level, load_vocabulary, num_ids_of
from tests.unit.detokenizer_svc import tiny_tokenizers as tiny
from wire.checkpoint import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.byte_level().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_folder_or_the_file_itself_is_a_tokenizer_path(folder: Path) -> None:
    file = folder / "tokenizer.json"
    assert find_tokenizer_file(str(folder), None) == file
    assert find_tokenizer_file("somewhere/else", str(folder)) == file
    assert find_tokenizer_file("somewhere/else", str(file)) == file


def test_a_model_without_tokenizer_json_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json"):
        find_tokenizer_file(str(tmp_path), None)


def test_a_folder_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        find_tokenizer_file(str(tmp_path), None)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"model": {"vocab": 3}}', '{"decoder": {"type": "ByteLevel"}}']
)
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path: Path, content: str) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=str(file)):
        load_vocabulary(file)


def test_a_byte_level_tokenizer_needs_only_the_table(folder: Path) -> None:
    assert isinstance(load_vocabulary(folder / "tokenizer.json"), ByteLevelVocabulary)


def test_only_a_byte_level_decoder_alone_is_byte_level() -> None:
    byte_level = {"type": "ByteLevel"}
    assert is_byte_level(byte_level)
    assert is_byte_level({"type": "Sequence", "decoders": [byte_level]})
    assert not is_byte_level(None)
    assert not is_byte_level({"type": "Sequence", "decoders": []})
    assert not is_byte_level({"type": "Sequence", "decoders": [byte_level, {"type": "Fuse"}]})
    assert not is_byte_level({"type": "Metaspace"})


@pytest.mark.parametrize(
    ("config", "expected"),
    [('{"vocab_size": 100000}', 100000), ('{"vocab_size": 1}', "the tokenizer's"), ("{}", 0), (None, 0)],
)
def test_a_model_has_as_many_ids_as_its_config_says_and_no_fewer_than_its_tokenizer(
    folder: Path, config: str | None, expected: int | str
) -> None:
    if config is not None:
        (folder / "config.json").write_text(config, encoding="utf-8")
    vocabulary = load_vocabulary(folder / "tokenizer.json")
    count = vocabulary.size if expected == "the tokenizer's" else expected
    assert num_ids_of(folder / "tokenizer.json", vocabulary) == count


def test_a_config_that_is_none_is_refused_by_name(folder: Path) -> None:
    (folder / "config.json").write_text("[", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        num_ids_of(folder / "tokenizer.json", load_vocabulary(folder / "tokenizer.json"))
