"""Jobs and heartbeats for the tests of the tokenizer."""

from typing import Any

from wire.codec import WIRE_LEVEL
from wire.messages import (
    ChatPrompt,
    Heartbeat,
    InstanceState,
    Peer,
    Prompt,
    SequenceStart,
    Stage,
    TextPrompt,
    TokenizeJob,
)
from wire.sampling import SamplingParams

GATEWAY = Peer("gateway-1", 1)
DETOKENIZER = Peer("detokenizer-1", 1)
MODEL_NAME = "model of the tokenizer tests"


def job(key: int = 1, prompt: Prompt | str = "the capital", **fields: Any) -> TokenizeJob:
    """A first attempt at a text prompt for eight tokens, unless said otherwise."""
    given: dict[str, Any] = {
        "request_id": f"request-{key}",
        "attempt": 1,
        "gateway": GATEWAY,
        "detokenizer": DETOKENIZER,
        "sampling": SamplingParams(max_new_tokens=8),
        "sequences": (SequenceStart(0),),
    }
    return TokenizeJob(key=key, prompt=TextPrompt(prompt) if isinstance(prompt, str) else prompt, **(given | fields))


def chat(text: str, **options: Any) -> ChatPrompt:
    """One message of a user."""
    return ChatPrompt(messages=[{"role": "user", "content": text}], **options)


def heartbeat(stage: Stage, instance_id: str, **fields: Any) -> Heartbeat:
    """A ready instance."""
    given: dict[str, Any] = {
        "peer": Peer(instance_id, 1),
        "state": InstanceState.READY,
        "served_model_name": MODEL_NAME,
        "wire_level": WIRE_LEVEL,
    }
    return Heartbeat(stage=stage, **(given | fields))
