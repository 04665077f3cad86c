"""Answers of `/v1/completions`. In a stream the finish reason rides on the last text chunk of its choice."""

from dataclasses import dataclass, field
from typing import Any

from gateway.inflight.generation import Call
from gateway.rendering.answer import DONE, created, encode
from gateway.rendering.cursor import Cursor, cursors_of
from gateway.rendering.frame import ChunkFrame
from gateway.rendering.logprobs import of_completion


@dataclass(slots=True, eq=False)
class CompletionAnswer:
    """One completion call. `echoes` has the text to put before the choices of each prompt; empty without `echo`."""

    call: Call
    frame: ChunkFrame
    has_logprobs: bool
    stream_interval: int
    echoes: list[str] = field(default_factory=list)
    _cursors: list[Cursor] = field(init=False)
    _offsets: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._cursors = cursors_of(self.call)
        self._offsets = [0] * len(self._cursors)  # logprobs and echo exclude each other

    def body(self) -> bytes:
        """A `text_completion`."""
        return encode(
            {
                "id": self.frame.request_id,
                "object": "text_completion",
                "created": created(self.call),
                "model": self.call.model,
                "choices": [self._choice(cursor) for cursor in self._cursors],
                "usage": self.frame.usage(),
                "metadata": {"weight_version": "default"},
            }
        )

    def news(self) -> bytes:
        """Text chunks; the last of a choice has its finish reason."""
        return b"".join([self._chunk(cursor) for cursor in self._cursors if cursor.is_due(self.stream_interval)])

    def end(self) -> bytes:
        """Usage and `[DONE]`."""
        return self.frame.final_usage() + DONE

    def _choice(self, cursor: Cursor) -> dict[str, Any]:
        finish, tokens = cursor.choice.finish, cursor.choice.logprobs
        return {
            "index": cursor.index,
            "text": self._echo(cursor) + cursor.choice.text,
            "logprobs": of_completion(tokens, self._offsets[cursor.index]) if self.has_logprobs else None,
            "finish_reason": finish and finish.reason,
            "matched_stop": finish and finish.matched,
        }

    def _chunk(self, cursor: Cursor) -> bytes:
        finish = cursor.choice.finish
        text = cursor.take_text()
        if not cursor.is_open:
            cursor.is_open = True
            text = self._echo(cursor) + text
        logprobs = self._logprobs(cursor) if self.has_logprobs else b"null"
        cursor.has_ended = finish is not None
        if not text and finish is None and logprobs == b"null":
            return b""
        ending = (encode(finish.reason), encode(finish.matched)) if finish else (b"null", b"null")
        choice = b'{"index":%d,"text":%s,"logprobs":%s,"finish_reason":%s,"matched_stop":%s}'
        return self.frame.chunk(choice % (cursor.index, encode(text), logprobs, *ending), self._cursors)

    def _logprobs(self, cursor: Cursor) -> bytes:
        tokens = cursor.take_logprobs()
        if not tokens:
            return b"null"
        fields = of_completion(tokens, self._offsets[cursor.index])
        self._offsets[cursor.index] += sum(len(text) for text in fields["tokens"])
        return encode(fields)

    def _echo(self, cursor: Cursor) -> str:
        if not self.echoes:
            return ""
        return self.echoes[cursor.index // cursor.generation.input.sampling.n]
