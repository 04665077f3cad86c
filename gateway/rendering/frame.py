"""What surrounds the choice in every chunk of an OpenAI stream; the constant parts are encoded once per stream."""

from dataclasses import dataclass, field

from gateway.inflight.generation import Call
from gateway.rendering.answer import created, encode, usage
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

    def chunk(self, choice: bytes) -> bytes:
        """One event with one choice, already encoded."""
        if self.options.continuous_usage_stats:
            return b"".join((self._head, choice, b'],"usage":', self._usage(), b"}\n\n"))
        return b"".join((self._head, choice, self._tail))

    def final_usage(self) -> bytes:
        """The event with the usage and no choice, if the client asked for it."""
        if not self.options.include_usage:
            return b""
        return b"".join((self._head, b'],"usage":', self._usage(), b"}\n\n"))

    def _usage(self) -> bytes:
        return encode(usage(self.call.generations, with_cache=self.with_cache))
