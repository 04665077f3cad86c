"""What one stage hands to the next: the way of a request from the gateway to a worker."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from wire.messages.peers import Key, Peer
from wire.sampling import SamplingParams


class TextPrompt(msgspec.Struct, frozen=True, tag="text"):
    """A prompt as plain text; special tokens (a BOS, say) are added as the tokenizer is configured."""

    text: str


class ChatPrompt(msgspec.Struct, frozen=True, tag="chat", kw_only=True, omit_defaults=True):
    """Chat messages, to be rendered by the model's chat template."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    template_kwargs: dict[str, Any] = {}
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class TokensPrompt(msgspec.Struct, frozen=True, tag="ids"):
    """A prompt as token ids: a u32 column."""

    token_ids: bytes


Prompt = TextPrompt | ChatPrompt | TokensPrompt


class SequenceStart(msgspec.Struct, frozen=True, array_like=True):
    """One unfinished sequence of a request: which of the n, and what a resume already has of it.

    `output_ids` is a u32 column. `text_len` counts the code points that the gateway has received of this choice.
    """

    choice: int
    output_ids: bytes = b""
    text_len: int = 0


class TokenizeJob(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True):
    """Gateway → one tokenizer: one attempt at a request.

    A first attempt carries `prompt` as the client gave it. A resume carries the frozen prompt ids as a `TokensPrompt`,
    `is_resume` true (length checks and model defaults have been applied already), and accepts only workers of
    `model_fingerprint`. `sampling_from_model` names the sampling fields that the client left unset and that the
    model's generation_config may set. `attempt` counts from 1. `is_suspect` says that a worker crashed while it had
    the request, and that no token has come since, or that it was the second in a row. `num_crashes` are those in a row.
    """

    key: Key
    request_id: str
    attempt: int
    gateway: Peer
    detokenizer: Peer
    prompt: Prompt
    sampling: SamplingParams
    sequences: tuple[SequenceStart, ...]
    sampling_from_model: tuple[str, ...] = ()
    is_resume: bool = False
    model_fingerprint: str = ""
    excluded_workers: tuple[str, ...] = ()
    received_ns: int = 0
    is_suspect: bool = False
    num_crashes: Annotated[int, Meta(ge=0)] = 0


class Dispatched(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True):
    """Tokenizer → gateway: the job went to this worker, and this is what a resume needs.

    `prompt_ids` is a u32 column; `sampling` has every default resolved.
    """

    key: Key
    tokenizer: Peer
    worker: Peer
    prompt_ids: bytes
    sampling: SamplingParams
    model_fingerprint: str


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the detokenizer must know of a request; workers pass it on unread.

    `prompt_tail` (u32 column) gives the decoder its context. `traceparent` names the attempt's span, `previous_hop`
    the hop before. `num_sequences` is the number of streams that this attempt opens for the key.
    """

    gateway: Peer
    request_id: str
    prompt_tail: bytes
    num_sequences: int
    stop: tuple[str, ...] = ()
    min_new_tokens: int = 0
    no_stop_trim: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    traceparent: str = ""
    tracestate: str = ""


class GenerateJob(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True):
    """Tokenizer → one worker: the unfinished sequences of one attempt.

    `prompt_ids` is a u32 column. Sampling parameters are as the client gave them, never rebased on a resume.
    A worker prefills what `is_suspect` in a step of its own, so that it takes nobody along if it crashes again. After
    more than one of `num_crashes` its first tokens are computed alone too.
    """

    key: Key
    request_id: str
    attempt: int
    tokenizer: Peer
    gateway: Peer
    detokenizer: Peer
    prompt_ids: bytes
    sampling: SamplingParams
    sequences: tuple[SequenceStart, ...]
    stream: StreamSettings
    previous_hop: str = ""
    received_ns: int = 0
    is_suspect: bool = False
    num_crashes: Annotated[int, Meta(ge=0)] = 0
