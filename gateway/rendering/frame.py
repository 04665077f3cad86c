"""What surrounds the choice in every chunk of an OpenAI stream; the constant parts are encoded once per stream."""

from dataclasses import dataclass, field
from typing import Any

from gateway.inflight.generation import Call
from gateway.rendering.answer import created, encode, num_completion_tokens, usage
from gateway.rendering.cursor import Cursor
from gateway.schemas.openai import StreamOptions


@dataclass(slots=True, eq=False)
class ChunkFrame:
    """`with_cache` says whether usage tells the cached tokens."""

    call: Call
    request_id: str
    kind: str
    options: StreamOptions
    with_cache: bool
    _head: bytes = field(init=False)
    _tail: bytes = field(init=False)

    def __post_init__(self) -> None:
        self._head = b'data: {"id":%s,"object":%s,"created":%d,"model":%s,"choices":[' % (
            encode(self.request_id),
            encode(self.kind),
            created(self.call),
            encode(self.call.model),
        )
        self._tail = b'],"usage":null}\n\n' if self.options.include_usage else b"]}\n\n"

    def chunk(self, choice: bytes, cursors: list[Cursor]) -> bytes:
        """One event with one choice, already encoded.

        Continuous usage counts the tokens that the stream has told so far: none in its first role chunk.
        """
        if self.options.continuous_usage_stats:
            told = usage(self.call.generations, sum(cursor.num_told for cursor in cursors), with_cache=self.with_cache)
            return b"".join((self._head, choice, b'],"usage":', encode(told), b"}\n\n"))
        return b"".join((self._head, choice, self._tail))

    def final_usage(self) -> bytes:
        """The event with the usage and no choice, if the client asked for it."""
        if not self.options.include_usage:
            return b""
        return b"".join((self._head, b'],"usage":', encode(self.usage()), b"}\n\n"))

    def usage(self) -> dict[str, Any]:
        """What the call has used."""
        generations = self.call.generations
        return usage(generations, num_completion_tokens(generations), with_cache=self.with_cache)
