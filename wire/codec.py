"""Messages to bytes and back. Knows every message and no subject."""

import msgspec

from wire.messages import Message

WIRE_LEVEL = 1
"""What this build can do; a sender uses newer behaviour only when every peer's heartbeat announces it."""


class UndecodableMessageError(ValueError):
    """Bytes that are no message of ours, or a message of a later version with an unknown tag."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The msgpack bytes of a message, its class name as tag."""
    return _encoder.encode(message)


def decode(raw: bytes) -> Message:
    """The message in `raw`; raises `UndecodableMessageError` for anything else."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableMessageError(str(error)) from error
