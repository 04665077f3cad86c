"""From a model path to a vocabulary: finds tokenizer.json and chooses the implementation by its decoder."""

from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from detokenizer_svc.byte_level import ByteLevelVocabulary
from detokenizer_svc.vocabulary import Vocabulary
from detokenizer_svc.windowed import WindowedVocabulary
from wire.checkpoint import CheckpointError, resolve

TOKENIZER_FILE = "tokenizer.json"


class _AddedToken(msgspec.Struct, frozen=True):
    id: int
    content: str
    special: bool = False


class _Model(msgspec.Struct, frozen=True):
    vocab: dict[str, int] | list[Any]


class _ByteLevelJson(msgspec.Struct, frozen=True):
    """The parts of tokenizer.json that lead from ids to bytes; the merges, most of the file, are skipped unread."""

    model: _Model
    added_tokens: list[_AddedToken] = []


class _DecoderJson(msgspec.Struct, frozen=True):
    decoder: dict[str, Any] | None = None


class _ConfigJson(msgspec.Struct, frozen=True):
    vocab_size: int = 0


def find_tokenizer_file(model_path: str, tokenizer_path: str | None, revision: str = "") -> Path:
    """Where tokenizer.json lies; raises `CheckpointError` naming the path that has none."""
    place = Path(tokenizer_path or model_path).expanduser()
    if place.is_file():
        return place
    if not (place / TOKENIZER_FILE).is_file():
        place = resolve(tokenizer_path or model_path, revision=revision, with_weights=False).path
    if not (place / TOKENIZER_FILE).is_file():
        raise CheckpointError(f"{place} holds no {TOKENIZER_FILE}; only fast tokenizers are served")
    return place / TOKENIZER_FILE


def num_ids_of(file: Path, vocabulary: Vocabulary) -> int:
    """How many ids the model beside a tokenizer.json can give; 0 if there is none, as with a tokenizer on its own.

    Models have more rows than their tokenizer has tokens, because the size is rounded up.
    """
    config = file.parent / "config.json"
    if not config.is_file():
        return 0
    try:
        num_rows = msgspec.json.decode(config.read_bytes(), type=_ConfigJson).vocab_size
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{config} is no config.json: {error}") from error
    return num_rows and max(num_rows, vocabulary.size)


def load_vocabulary(file: Path) -> Vocabulary:
    """The vocabulary in a tokenizer.json; raises `CheckpointError` for a file that is none."""
    raw = file.read_bytes()
    try:
        if is_byte_level(msgspec.json.decode(raw, type=_DecoderJson).decoder):
            content = msgspec.json.decode(raw, type=_ByteLevelJson)
            if isinstance(content.model.vocab, dict):
                return _byte_level(content.model.vocab, content.added_tokens)
        return WindowedVocabulary(Tokenizer.from_buffer(raw))
    except Exception as error:  # `tokenizers` raises nothing narrower for a file that it cannot read
        raise CheckpointError(f"{file} is no tokenizer.json: {error}") from error


def is_byte_level(decoder: dict[str, Any] | None) -> bool:
    """Whether bytes are all there is to it: a ByteLevel decoder, alone or as the only member of a sequence."""
    if decoder is None:
        return False
    if decoder.get("type") == "Sequence":
        members = decoder.get("decoders") or []
        return len(members) == 1 and is_byte_level(members[0])
    return decoder.get("type") == "ByteLevel"


def _byte_level(vocab: dict[str, int], added_tokens: list[_AddedToken]) -> ByteLevelVocabulary:
    # The tokenizer looks an added token up in the model first, whatever id the file gives it.
    added = {vocab.get(token.content, token.id): token for token in added_tokens}
    tokens = [(token_id, token) for token, token_id in vocab.items()]
    tokens += [(token_id, token.content) for token_id, token in added.items()]
    special = {token.content for token in added_tokens if token.special}
    return ByteLevelVocabulary(tokens, [token_id for token_id, token in added.items() if token.content in special])
