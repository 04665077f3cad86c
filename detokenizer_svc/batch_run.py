"""One `TokenBatch` to one `TextBatch` per gateway: every row to text, every end noticed. Knows no bus and no clock."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from detokenizer_svc.attempts import AttemptTable, OpenStream
from detokenizer_svc.hop_metrics import DetokenizerMetrics
from detokenizer_svc.stream import Stream
from detokenizer_svc.text_rows import TextRows
from detokenizer_svc.token_columns import MalformedBatchError, TokenColumns
from detokenizer_svc.vocabulary import Vocabulary
from wire import subjects
from wire.columns import unpack_u32
from wire.messages import (
    Abort,
    ErrorCode,
    Failed,
    FinishReason,
    Peer,
    StreamFinish,
    StreamOpen,
    StreamStart,
    TextBatch,
    TextFinish,
    TokenBatch,
)

_MAX_TOKENS_PER_ROW = 1024  # a longer row goes out as several, so that a batch can be split anywhere

_MAX_SEQUENCES = 2**16
_NO_ROW = -1


@dataclass(slots=True)
class Outcome:
    """What a batch leads to: text and failures with the gateway that they go to, and aborts for the worker."""

    texts: list[tuple[str, TextBatch]] = field(default_factory=list)
    failures: list[tuple[str, Failed]] = field(default_factory=list)
    aborts: list[Abort] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BatchProcessor:
    """What every batch is worked on with. A `TextBatch` is closed when it exceeds `max_bytes`, before its next row.

    A worker that gives an id from `num_ids` on is broken; 0 if nobody knows how many there are.
    """

    me: Callable[[], Peer]
    vocabulary: Vocabulary
    table: AttemptTable
    metrics: DetokenizerMetrics
    max_bytes: int
    num_ids: int = 0

    def process(self, batch: TokenBatch, now_ns: int) -> Outcome:
        """Turns a batch to text; a batch whose columns do not fit together is counted and dropped."""
        self.metrics.add("batches")
        try:
            return BatchRun(self, batch, now_ns).run()
        except MalformedBatchError:
            self.metrics.add("malformed_batches")
            return Outcome()


class BatchRun:
    """The work on one batch."""

    def __init__(self, shared: BatchProcessor, batch: TokenBatch, now_ns: int) -> None:
        self._shared = shared
        self._batch = batch
        self._now_ns = now_ns
        self._columns = TokenColumns.of(batch)
        self._finishes = {finish.row: finish for finish in batch.finishes}
        self._rows: dict[str, TextRows] = {}
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Opens the new streams, works row by row, and gives what has to be sent."""
        columns = self._columns
        for opened in self._batch.opens:
            self._open(opened)
        streams = self._shared.table.worker(self._batch.worker)
        open_streams, token_ids = streams.open, columns.token_ids
        special_rows = self._finishes.keys() | columns.logprobs.keys()
        has_nonsense = self._has_nonsense(token_ids)
        begin = 0
        for row, (stream_id, first_index, count) in enumerate(
            zip(columns.stream_ids, columns.first_indexes, columns.counts, strict=True)
        ):
            end = begin + count
            owner = open_streams.get(stream_id)
            if owner is None:
                self._drop_row(streams.closed, stream_id, row)
            elif first_index != owner.stream.next_index:
                self._close_at_gap(owner, row, first_index)
            elif has_nonsense and self._has_nonsense(token_ids[begin:end]):
                self._close_at_nonsense(owner, row, max(token_ids[begin:end]))
            elif count == 1 and not owner.is_new and row not in special_rows:
                self._advance_by_one(owner, first_index, token_ids[begin])
            else:
                self._advance(owner, row, first_index, token_ids[begin:end])
            begin = end
        self._shared.metrics.add("tokens", begin)
        for gateway_id, rows in self._rows.items():
            self._seal(gateway_id, rows)
        return self._outcome

    def _open(self, opened: StreamOpen) -> None:
        try:
            _check(opened)
            stream = Stream(self._shared.vocabulary, opened.settings)
            token_ids = unpack_u32(opened.output_ids)
        except ValueError as error:
            raise MalformedBatchError(str(error)) from error
        if token_ids or opened.text_len:
            stream.replay(token_ids, opened.text_len, self._stop_token_of_replay(opened.stream_id))
        owner = self._shared.table.open(self._batch.worker, opened, stream, self._now_ns)
        if owner is not None and stream.stop_string is not None:  # the ids given complete one: over before it began
            self._advance(owner, _NO_ROW, len(token_ids), ())

    def _stop_token_of_replay(self, stream_id: int) -> int | None:
        """The stop token, if the batch says that the ids of the replay are the whole sequence."""
        columns = self._columns
        for row, finish in self._finishes.items():
            if columns.stream_ids[row] == stream_id and not columns.counts[row]:
                return finish.matched_token
        return None

    def _drop_row(self, closed: dict[int, None], stream_id: int, row: int) -> None:
        if stream_id not in closed:
            self._shared.metrics.add("unknown_streams")
        elif row in self._finishes:
            del closed[stream_id]

    def _has_nonsense(self, token_ids: Sequence[int]) -> bool:
        return bool(self._shared.num_ids) and max(token_ids, default=0) >= self._shared.num_ids

    def _close_at_gap(self, owner: OpenStream, row: int, first_index: int) -> None:
        self._shared.metrics.add("gaps")
        expected = owner.stream.next_index
        self._fail(
            owner, row, "gap", f"tokens were lost on the way: got output index {first_index}, expected {expected}"
        )

    def _close_at_nonsense(self, owner: OpenStream, row: int, token_id: int) -> None:
        self._shared.metrics.add("nonsense_ids")
        limit = self._shared.num_ids
        self._fail(owner, row, "nonsense", f"the worker gave the token id {token_id}, and the model has {limit} ids")

    def _fail(self, owner: OpenStream, row: int, cause: str, message: str) -> None:
        """This stream can only be repaired by its gateway, which is told at once."""
        failed = Failed(
            key=owner.key,
            sender=self._shared.me(),
            code=ErrorCode.INTERNAL,
            message=message,
            is_retryable=True,
            choice=owner.choice,
        )
        self._outcome.failures.append((owner.gateway_id, failed))
        self._shared.table.end(owner, is_ended_by_worker=row in self._finishes, cause=cause)

    def _advance_by_one(self, owner: OpenStream, first_index: int, token_id: int) -> None:
        """`_advance` for one id and nothing else: nearly every row of a busy step."""
        stream = owner.stream
        text_offset = stream.text_len
        text = stream.push_token(token_id)
        rows = self._rows.get(owner.gateway_id)
        if rows is None or rows.size > self._shared.max_bytes:
            rows = self._rows_for(owner.gateway_id)
        rows.add_token(owner.key, owner.choice, first_index, token_id, text_offset, text)
        if stream.stop_string is not None:
            self._end(owner, None)

    def _advance(self, owner: OpenStream, row: int, first_index: int, token_ids: Sequence[int]) -> None:
        finish = self._finishes.get(row)
        parts = _parts(token_ids) if len(token_ids) > _MAX_TOKENS_PER_ROW else ((0, token_ids),)
        for begin, part in parts:
            is_last = begin + len(part) == len(token_ids)
            self._add_row(owner, row, first_index + begin, begin, part, finish if is_last else None)
            if owner.stream.stop_string is not None:
                break
        if finish is not None or owner.stream.stop_string is not None:
            self._end(owner, finish)

    def _add_row(
        self,
        owner: OpenStream,
        row: int,
        first_index: int,
        begin: int,
        token_ids: Sequence[int],
        finish: StreamFinish | None,
    ) -> None:
        stream = owner.stream
        text_offset = stream.text_len
        if finish is None:
            text = stream.push(token_ids)
        else:
            text = stream.push_last(token_ids, finish.matched_token) + stream.finish()
        if stream.stop_string is not None:
            token_ids = token_ids[: stream.next_index - first_index] if token_ids else ()
        rows = self._rows_for(owner.gateway_id)
        rows.add(owner.key, owner.choice, first_index, token_ids, text_offset, text)
        if owner.is_new:
            owner.is_new = False
            rows.starts.append(StreamStart(len(rows) - 1, owner.opened.num_prompt_tokens, owner.opened.cached_tokens))
        if row in self._columns.logprobs:
            logprobs = self._columns.logprobs[row].part(begin, begin + len(token_ids))
            rows.add_logprobs(logprobs, token_ids, self._shared.vocabulary.token_bytes)

    def _rows_for(self, gateway_id: str) -> TextRows:
        rows = self._rows.get(gateway_id)
        if rows is not None and rows.size > self._shared.max_bytes:
            self._seal(gateway_id, rows)
            rows = None
        if rows is None:
            rows = self._rows[gateway_id] = TextRows()
        return rows

    def _seal(self, gateway_id: str, rows: TextRows) -> None:
        self._outcome.texts.append((gateway_id, rows.build(self._shared.me(), self._batch.worker)))

    def _end(self, owner: OpenStream, finish: StreamFinish | None) -> None:
        rows = self._rows[owner.gateway_id]
        stop_string = owner.stream.stop_string
        if stop_string is not None:
            self._shared.metrics.add("stop_matches")
            rows.finishes.append(self._stopped(owner, len(rows) - 1, stop_string, finish))
            owner.attempt.finish_reasons.append(FinishReason.STOP)
            if finish is None:
                self._outcome.aborts.append(Abort(self._shared.me(), owner.key, owner.choice))
        elif finish is not None:
            rows.finishes.append(self._finished(len(rows) - 1, finish))
            owner.attempt.finish_reasons.append(finish.reason)
        self._shared.table.end(owner, is_ended_by_worker=finish is not None)

    def _finished(self, row: int, finish: StreamFinish) -> TextFinish:
        return TextFinish(
            row=row,
            reason=finish.reason,
            matched=finish.matched_token,
            num_prompt_tokens=finish.num_prompt_tokens,
            num_output_tokens=finish.num_output_tokens,
            cached_tokens=finish.cached_tokens,
            received_ns=finish.received_ns,
            scheduled_ns=finish.scheduled_ns,
            first_token_ns=finish.first_token_ns,
            finished_ns=finish.finished_ns,
            detokenized_ns=self._now_ns,
            num_preemptions=finish.num_preemptions,
            message=finish.message,
        )

    def _stopped(self, owner: OpenStream, row: int, stop_string: str, finish: StreamFinish | None) -> TextFinish:
        """The stop string wins over the worker's finish. Times that only the worker knows are 0 without one."""
        return TextFinish(
            row=row,
            reason=FinishReason.STOP,
            matched=stop_string,
            num_prompt_tokens=owner.opened.num_prompt_tokens,
            num_output_tokens=owner.stream.next_index,
            cached_tokens=owner.opened.cached_tokens,
            received_ns=finish.received_ns if finish else 0,
            scheduled_ns=finish.scheduled_ns if finish else 0,
            first_token_ns=finish.first_token_ns if finish else owner.opened_ns,
            finished_ns=finish.finished_ns if finish else self._now_ns,
            detokenized_ns=self._now_ns,
            num_preemptions=finish.num_preemptions if finish else 0,
        )


def _parts(token_ids: Sequence[int]) -> Iterable[tuple[int, Sequence[int]]]:
    for begin in range(0, len(token_ids), _MAX_TOKENS_PER_ROW):
        yield begin, token_ids[begin : begin + _MAX_TOKENS_PER_ROW]


def _check(opened: StreamOpen) -> None:
    """What msgspec does not: raises ValueError for a number that fits no column of ours."""
    subjects.gateway(opened.settings.gateway.instance_id)
    limits = (
        (opened.key, 2**64),
        (opened.choice, 2**32),
        (opened.text_len, 2**31),
        (opened.settings.num_sequences, _MAX_SEQUENCES + 1),
    )
    if any(not 0 <= value < limit for value, limit in limits):
        raise ValueError("a key, choice, text length or number of sequences out of range")
