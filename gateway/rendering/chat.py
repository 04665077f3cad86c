"""Answers of `/v1/chat/completions`.

A stream sends a role chunk per choice, content chunks, one empty chunk with the finish reason per choice after all of
them are done, the usage if asked for, and `[DONE]`.
"""

from dataclasses import dataclass, field

from gateway.inflight.choice import TokenLogprob
from gateway.inflight.generation import Call
from gateway.rendering.answer import DONE, created, encode
from gateway.rendering.cursor import Cursor, cursors_of
from gateway.rendering.frame import ChunkFrame
from gateway.rendering.logprobs import of_chat

_ROLE = b'{"role":"assistant","content":"","reasoning_content":null}'


@dataclass(slots=True, eq=False)
class ChatAnswer:
    """One chat call, answered as a whole or as a stream."""

    call: Call
    frame: ChunkFrame
    has_logprobs: bool
    stream_interval: int
    _cursors: list[Cursor] = field(init=False)

    def __post_init__(self) -> None:
        self._cursors = cursors_of(self.call)

    def body(self) -> bytes:
        """A `chat.completion`."""
        choices = [
            {
                "index": cursor.index,
                "message": {"role": "assistant", "content": cursor.choice.text, "reasoning_content": None},
                "logprobs": of_chat(cursor.choice.logprobs) if self.has_logprobs else None,
                "finish_reason": cursor.choice.finish and cursor.choice.finish.reason,
                "matched_stop": cursor.choice.finish and cursor.choice.finish.matched,
            }
            for cursor in self._cursors
        ]
        return encode(
            {
                "id": self.frame.request_id,
                "object": "chat.completion",
                "created": created(self.call),
                "model": self.call.model,
                "choices": choices,
                "usage": self.frame.usage(),
                "metadata": {"weight_version": "default"},
            }
        )

    def news(self) -> bytes:
        """Role and content chunks."""
        return b"".join([self._chunks(cursor) for cursor in self._cursors if cursor.is_due(self.stream_interval)])

    def _chunks(self, cursor: Cursor) -> bytes:
        role = b""
        if not cursor.is_open:
            cursor.is_open = True
            role = self.frame.chunk(_choice(cursor.index, _ROLE), self._cursors)
        text = cursor.take_text()
        tokens = cursor.take_logprobs() if self.has_logprobs else []
        cursor.has_ended = cursor.choice.finish is not None
        if not text and not tokens:
            return role
        delta = b'{"content":' + encode(text) + b',"reasoning_content":null}'
        return role + self.frame.chunk(_choice(cursor.index, delta, tokens), self._cursors)

    def end(self) -> bytes:
        """Finish reasons, usage, `[DONE]`."""
        finishes = [
            self.frame.chunk(
                b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":%s,"matched_stop":%s}'
                % (cursor.index, encode(finish.reason), encode(finish.matched)),
                self._cursors,
            )
            for cursor in self._cursors
            if (finish := cursor.choice.finish)
        ]
        return b"".join([*finishes, self.frame.final_usage(), DONE])


def _choice(index: int, delta: bytes, tokens: list[TokenLogprob] | None = None) -> bytes:
    logprobs = encode(of_chat(tokens)) if tokens else b"null"
    return b'{"index":%d,"delta":%s,"logprobs":%s,"finish_reason":null,"matched_stop":null}' % (index, delta, logprobs)
