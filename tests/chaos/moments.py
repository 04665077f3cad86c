"""Where in its output a stream is when a fault falls."""

import enum

from tests.chaos.clients import ChaosStream

MIDDLE_TOKENS = 50
_BEGUN_TOKENS = 10


class Moment(enum.Enum):
    """The places that differ in what is under way."""

    BEFORE_FIRST_TOKEN = "before the first token"
    MIDDLE = "in the middle"
    LAST_TOKEN = "on the last token"
    INSIDE_CHARACTER = "inside a character"
    INSIDE_STOP_STRING = "inside a stop string"


def is_at(moment: Moment, stream: ChaosStream, twin: ChaosStream) -> bool:
    """Whether the client has seen just so much; `twin` is the same stream, undisturbed."""
    if stream.is_over or not stream.is_open:
        return False
    kind = stream.ask.kind
    match moment:
        case Moment.BEFORE_FIRST_TOKEN:
            return stream.num_tokens == 0
        case Moment.MIDDLE:
            return stream.num_tokens >= MIDDLE_TOKENS
        case Moment.LAST_TOKEN:
            return len(twin.choices) == 1 and twin.num_tokens - stream.num_tokens <= 1
        case Moment.INSIDE_CHARACTER:
            return kind == "characters" and stream.is_holding and stream.num_tokens >= _BEGUN_TOKENS
        case Moment.INSIDE_STOP_STRING:
            return kind == "stops" and stream.is_holding and stream.num_tokens >= _BEGUN_TOKENS
