"""One sequence on its way from ids to text. Knows no messages and no bus.

Invariant: the text emitted is a function of the ids, the stop settings and `text_len` at the start alone, never of how
the ids were cut into batches; so a stream that is opened again with what was delivered continues exactly.
"""

from collections.abc import Sequence

from detokenizer_svc.stop_strings import StopStrings
from detokenizer_svc.vocabulary import Vocabulary
from wire.columns import unpack_u32
from wire.messages import StreamSettings


class Stream:
    """`next_index` ids have been taken in, `text_len` code points have been given out.

    `stop_string` is the one that ended the stream: no id is taken in after the one that completed it.
    """

    __slots__ = (
        "_catch_up",
        "_decode",
        "_flush",
        "_is_plain",
        "_min_new_tokens",
        "_no_stop_trim",
        "_num_to_skip",
        "_stops",
        "next_index",
        "stop_string",
        "text_len",
    )

    def __init__(self, vocabulary: Vocabulary, settings: StreamSettings) -> None:
        decoder = vocabulary.decoder(
            skip_special_tokens=settings.skip_special_tokens,
            spaces_between_special_tokens=settings.spaces_between_special_tokens,
            prompt_tail=unpack_u32(settings.prompt_tail),
        )
        self._decode = decoder.push
        self._flush = decoder.flush
        self._stops = StopStrings(settings.stop, no_stop_trim=settings.no_stop_trim) if settings.stop else None
        self._no_stop_trim = settings.no_stop_trim
        self._min_new_tokens = settings.min_new_tokens
        self._catch_up = ""
        self._num_to_skip = 0
        self._is_plain = self._stops is None
        self.next_index = 0
        self.text_len = 0
        self.stop_string: str | None = None

    def replay(self, token_ids: Sequence[int], text_len: int, stop_token: int | None = None) -> None:
        """Takes in what an earlier attempt delivered; the next text begins at code point `text_len`.

        `stop_token` is the token that ended the sequence, if these ids are all of it.
        """
        text = self.push_last(token_ids, stop_token) if stop_token is not None else self.push(token_ids)
        self._catch_up = text[text_len:]
        self._num_to_skip = max(0, text_len - len(text))
        self._is_plain = self._is_plain and not self._catch_up and not self._num_to_skip
        self.text_len = text_len

    def push_token(self, token_id: int) -> str:
        """`push` for one id, which is the common case."""
        if not self._is_plain:
            return self.push((token_id,))
        self.next_index += 1
        text = self._decode(token_id)
        self.text_len += len(text)
        return text

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that these ids complete. After a stop string the remaining ids are not taken in."""
        if self._is_plain:
            self.next_index += len(token_ids)
            text = "".join(map(self._decode, token_ids))
        else:
            text = self._from_text_len(self._push_matching(token_ids))
        self.text_len += len(text)
        return text

    def push_last(self, token_ids: Sequence[int], stop_token: int | None) -> str:
        """`push` for the last ids. The token that stopped the worker is no text, unless stops are not trimmed."""
        if stop_token is None or not token_ids or token_ids[-1] != stop_token:
            return self.push(token_ids)
        text = self.push(token_ids[:-1])
        if self.stop_string is None:
            self.next_index += 1
            if self._no_stop_trim:
                text += self._emit(self._held() + self._decode(stop_token))
        return text

    def finish(self) -> str:
        """The rest of the text, when the worker has ended the sequence and no stop string did."""
        return self._emit("" if self.stop_string is not None else self._flush_all())

    def _push_matching(self, token_ids: Sequence[int]) -> str:
        stops = self._stops
        if stops is None:
            self.next_index += len(token_ids)
            return "".join(map(self._decode, token_ids))
        pieces = []
        for token_id in token_ids:
            if self.stop_string is not None:
                break
            self.next_index += 1
            pieces.append(stops.push(self._decode(token_id), may_match=self.next_index >= self._min_new_tokens))
            self.stop_string = stops.matched
        return "".join(pieces)

    def _flush_all(self) -> str:
        return self._held() + self._flush()

    def _held(self) -> str:
        return self._stops.flush() if self._stops else ""

    def _emit(self, text: str) -> str:
        text = self._from_text_len(text)
        self.text_len += len(text)
        return text

    def _from_text_len(self, text: str) -> str:
        """Puts text that was owed since the replay in front, or leaves out what was delivered already."""
        if self._catch_up:
            text, self._catch_up = self._catch_up + text, ""
        if self._num_to_skip:
            num_skipped = min(self._num_to_skip, len(text))
            self._num_to_skip -= num_skipped
            text = text[num_skipped:]
        self._is_plain = self._stops is None and not self._num_to_skip
        return text
