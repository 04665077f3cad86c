"""Byte-level BPE: a table from id to bytes, and an incremental UTF-8 decoder. Needs no context and no window."""

import codecs
from collections.abc import Iterable, Sequence

_UNMAPPED = "\U0010ffff"  # encodes to no byte, so that a token with such a character is noticed


def _byte_of_character() -> "_ByteCharacters":
    """GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = _ByteCharacters({byte: chr(byte) for byte in printable})
    others = (byte for byte in range(256) if byte not in table)
    table.update({0x100 + position: chr(byte) for position, byte in enumerate(list(others))})
    return table


class _ByteCharacters(dict[int, str]):
    def __missing__(self, _: int) -> str:
        return _UNMAPPED


def bytes_of(token: str, characters: "dict[int, str]") -> bytes:
    """The bytes of a token; one with any character outside of the alphabet stands for its own UTF-8."""
    try:
        return token.translate(characters).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


class ByteLevelVocabulary:
    """The bytes of every id, and its text where the bytes are whole characters."""

    def __init__(self, tokens: Iterable[tuple[int, str]], special_ids: Iterable[int]) -> None:
        """`tokens` names every id, added tokens included; a later pair wins over an earlier one of the same id."""
        characters = _byte_of_character()
        by_id = {token_id: bytes_of(token, characters) for token_id, token in tokens}
        self.size = max(by_id, default=-1) + 1
        self._bytes = [by_id.get(token_id, b"") for token_id in range(self.size)]
        self._texts = [_whole_text(raw) for raw in self._bytes]
        self._texts_without_special = list(self._texts)
        for token_id in special_ids:
            self._texts_without_special[token_id] = ""

    def decoder(
        self, *, skip_special_tokens: bool, spaces_between_special_tokens: bool, prompt_tail: Sequence[int]
    ) -> "ByteLevelDecoder":
        """A decoder at the start of an output. Bytes need neither context nor spaces between tokens."""
        del spaces_between_special_tokens, prompt_tail
        texts = self._texts_without_special if skip_special_tokens else self._texts
        return ByteLevelDecoder(texts, self._bytes)

    def token_bytes(self, token_id: int) -> bytes:
        """Exactly the token's bytes, also where they are part of a character."""
        return self._bytes[token_id] if token_id < self.size else b""


class ByteLevelDecoder:
    """One sequence. Most tokens are whole characters and cost one look-up."""

    __slots__ = ("_bytes", "_incomplete", "_texts")

    def __init__(self, texts: Sequence[str | None], table: Sequence[bytes]) -> None:
        self._texts = texts
        self._bytes = table
        self._incomplete = b""

    def push(self, token_id: int) -> str:
        """The text that this token completes."""
        try:
            text = self._texts[token_id]
        except IndexError:  # ids above the vocabulary: embeddings are often padded
            return ""
        if text is not None and not (self._incomplete and text):
            return text
        data = self._incomplete + self._bytes[token_id]
        decoded, num_consumed = codecs.utf_8_decode(data, "replace", False)
        self._incomplete = data[num_consumed:]
        return decoded

    def flush(self) -> str:
        """The replacement character for an incomplete one, if there is one."""
        rest = self._incomplete.decode("utf-8", "replace")
        self._incomplete = b""
        return rest


def _whole_text(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
