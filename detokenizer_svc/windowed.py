"""Every other tokenizer: decodes a short window of ids with the tokenizer itself and gives what grew.

Only the ids since the text before last are decoded again, so that the cost per token does not depend on the length.
"""

import re
from collections.abc import Sequence

from tokenizers import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MAX_BYTES_PER_CHARACTER = 4
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class WindowedVocabulary:
    """A tokenizer of any kind, seen through its own decode."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self._added = {token_id: token.content for token_id, token in tokenizer.get_added_tokens_decoder().items()}
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        self._special_ids = {token_id for token_id, content in self._added.items() if content in special}
        self._anchor = self._find_anchor()
        self._texts = AloneTexts(tokenizer)
        self._token_bytes: dict[int, bytes] = {}

    def decoder(
        self, *, skip_special_tokens: bool, spaces_between_special_tokens: bool, prompt_tail: Sequence[int]
    ) -> "WindowedDecoder":
        """A decoder whose first window begins with `prompt_tail`, so that a leading space is kept where it belongs.

        Without `spaces_between_special_tokens` an added token that follows another is its bare content.
        """
        return WindowedDecoder(
            self._tokenizer,
            self._texts,
            self._special_ids if skip_special_tokens else set(),
            {} if spaces_between_special_tokens else self._added,
            prompt_tail,
        )

    def token_bytes(self, token_id: int) -> bytes:
        """The byte of a byte token; otherwise the UTF-8 of the token's text in the middle of a sequence."""
        raw = self._token_bytes.get(token_id)
        if raw is None:
            raw = self._token_bytes[token_id] = self._bytes_of(token_id)
        return raw

    def _bytes_of(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if byte := _BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(byte[1])
        ids = [*self._anchor, token_id]
        before = self._tokenizer.decode(self._anchor, skip_special_tokens=False)
        return self._tokenizer.decode(ids, skip_special_tokens=False).removeprefix(before).encode()

    def _find_anchor(self) -> list[int]:
        """An id whose text stays the same when others follow: in front of a token it shows the token's own space."""
        for token_id in range(min(self.size, 1000)):
            alone = self._tokenizer.decode([token_id], skip_special_tokens=False)
            twice = self._tokenizer.decode([token_id, token_id], skip_special_tokens=False)
            if alone.strip() and _REPLACEMENT not in alone and twice.startswith(alone):
                return [token_id]
        return []


class AloneTexts(dict[int, str | None]):
    """The text of every id seen so far, decoded alone; None for an id that is no token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token_id: int) -> str | None:
        is_known = self._tokenizer.id_to_token(token_id) is not None
        text = self._tokenizer.decode([token_id], skip_special_tokens=False) if is_known else None
        if is_known:  # so that it never holds more than the vocabulary
            self[token_id] = text
        return text


class WindowedDecoder:
    """One sequence. Its window is the ids of the last text given (the context), then those whose text is held.

    A run of byte tokens that is not valid UTF-8 differs from the full decode in one case: characters that were
    complete before the bad byte stay as they are, where the full decode makes every byte of the run a replacement.
    """

    __slots__ = (
        "_added",
        "_context",
        "_context_text",
        "_held",
        "_last_added",
        "_num_incomplete",
        "_skipped_ids",
        "_texts",
        "_tokenizer",
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        texts: AloneTexts,
        skipped_ids: set[int],
        added: dict[int, str],
        prompt_tail: Sequence[int],
    ) -> None:
        self._tokenizer = tokenizer
        self._texts = texts
        self._skipped_ids = skipped_ids
        self._added = added
        self._last_added = False
        self._context = [token_id for token_id in prompt_tail if token_id not in skipped_ids]
        self._context_text = self._decode(self._context)
        self._held: list[int] = []
        self._num_incomplete = 0

    def push(self, token_id: int) -> str:
        """The text that this token completes."""
        if token_id in self._skipped_ids or self._texts[token_id] is None:
            return ""
        self._held.append(token_id)
        text = self._new_text()
        if text.endswith(_REPLACEMENT):
            self._num_incomplete += 1
            if self._num_incomplete < _MAX_BYTES_PER_CHARACTER:
                return ""
        self._num_incomplete = 0
        content = self._added.get(token_id)
        if content is not None and self._last_added and len(self._held) == 1:
            text = content
        self._last_added = content is not None
        if text:
            self._advance()
        return text

    def flush(self) -> str:
        """What is held, as the tokenizer decodes it."""
        text = self._new_text()
        self._advance()
        return text

    def _new_text(self) -> str:
        text = self._decode(self._context + self._held)
        if text.startswith(self._context_text):
            return text[len(self._context_text) :]
        # The held ids change the text of their context (a bad byte after good ones does): they count alone.
        return self._decode(self._held)

    def _advance(self) -> None:
        if self._held:
            self._context = self._held
            self._context_text = self._decode(self._context)
            self._held = []

    def _decode(self, ids: list[int]) -> str:
        if len(ids) == 1:
            return self._texts[ids[0]] or ""
        return self._tokenizer.decode(ids, skip_special_tokens=False) if ids else ""
