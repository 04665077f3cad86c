"""The columns of one `TextBatch` while they grow. Knows no streams: rows come in as plain values."""

from collections.abc import Callable, Sequence

from detokenizer_svc.token_columns import RowLogprobs
from wire.columns import pack_f32, pack_u32, pack_u64
from wire.messages import LogprobTexts, Peer, StreamStart, TextBatch, TextFinish

_ROW_BYTES = 52  # the integers, a text header, and a share of starts and finishes
_MAX_UTF8_BYTES = 4


class TextRows:
    """Rows for one gateway. `size` is an upper estimate of the encoded bytes."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int, int, int, str]] = []
        self._token_ids: list[int] = []
        self.starts: list[StreamStart] = []
        self.finishes: list[TextFinish] = []
        self._logprobs: LogprobRows | None = None
        self.size = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add_token(self, key: int, choice: int, first_index: int, token_id: int, text_offset: int, text: str) -> None:
        """`add` for one id, which is the common case."""
        self._rows.append((key, choice, first_index, 1, text_offset, text))
        self._token_ids.append(token_id)
        self.size += _ROW_BYTES + _MAX_UTF8_BYTES * len(text)

    def add(
        self, key: int, choice: int, first_index: int, token_ids: Sequence[int], text_offset: int, text: str
    ) -> None:
        """One stream's new ids and text."""
        self._rows.append((key, choice, first_index, len(token_ids), text_offset, text))
        self._token_ids.extend(token_ids)
        self.size += _ROW_BYTES + 4 * len(token_ids) + _MAX_UTF8_BYTES * len(text)

    def add_logprobs(
        self, logprobs: RowLogprobs, token_ids: Sequence[int], token_bytes: Callable[[int], bytes]
    ) -> None:
        """The logprobs of the row added last."""
        if self._logprobs is None:
            self._logprobs = LogprobRows(token_bytes)
        self.size += self._logprobs.add(len(self) - 1, logprobs, token_ids)

    def build(self, detokenizer: Peer, worker: Peer) -> TextBatch:
        """The message; there is at least one row."""
        keys, choices, first_indexes, counts, text_offsets, texts = zip(*self._rows, strict=True)
        return TextBatch(
            detokenizer=detokenizer,
            worker=worker,
            keys=pack_u64(keys),
            choices=pack_u32(choices),
            first_indexes=pack_u32(first_indexes),
            counts=pack_u32(counts),
            token_ids=pack_u32(self._token_ids),
            text_offsets=pack_u32(text_offsets),
            texts=list(texts),
            starts=tuple(self.starts),
            finishes=tuple(self.finishes),
            logprobs=self._logprobs.build() if self._logprobs else None,
        )


class LogprobRows:
    """The columns of one `LogprobTexts` while they grow."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._rows: list[int] = []
        self._chosen: list[float] = []
        self._texts: list[bytes] = []
        self._num_top: list[int] = []
        self._top_ids: list[int] = []
        self._top: list[float] = []
        self._top_texts: list[bytes] = []

    def add(self, row: int, logprobs: RowLogprobs, token_ids: Sequence[int]) -> int:
        """One row; returns about how many bytes it adds."""
        texts = [self._token_bytes(token_id) for token_id in token_ids]
        top_texts = [self._token_bytes(token_id) for token_id in logprobs.top_ids]
        self._rows.append(row)
        self._chosen.extend(logprobs.chosen)
        self._texts.extend(texts)
        self._num_top.append(logprobs.num_top)
        self._top_ids.extend(logprobs.top_ids)
        self._top.extend(logprobs.top)
        self._top_texts.extend(top_texts)
        num_text_bytes = sum(map(len, texts)) + sum(map(len, top_texts))
        return 8 + num_text_bytes + 9 * len(texts) + 13 * len(top_texts)

    def build(self) -> LogprobTexts:
        """The part of the message."""
        return LogprobTexts(
            rows=pack_u32(self._rows),
            chosen=pack_f32(self._chosen),
            texts=self._texts,
            num_top=pack_u32(self._num_top),
            top_ids=pack_u32(self._top_ids),
            top=pack_f32(self._top),
            top_texts=self._top_texts,
        )
