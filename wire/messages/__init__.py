"""Every message that crosses a process, grouped by what it is for. No behaviour.

Fields are only ever appended, with defaults; the golden bytes in the tests keep decoding.
"""

from wire.messages.batches import (
    FinishReason,
    LogprobColumns,
    LogprobTexts,
    StreamFinish,
    StreamOpen,
    StreamStart,
    TextBatch,
    TextFinish,
    TokenBatch,
)
from wire.messages.control import (
    Abort,
    BatchAck,
    ErrorCode,
    Failed,
    KvEvent,
    Progress,
    Reattach,
    ReattachPoint,
    Released,
    RequestState,
)
from wire.messages.jobs import (
    ChatPrompt,
    Dispatched,
    GenerateJob,
    Prompt,
    SequenceStart,
    StreamSettings,
    TextPrompt,
    TokenizeJob,
    TokensPrompt,
)
from wire.messages.peers import Heartbeat, InstanceState, Peer, PresenceProbe, Stage
from wire.messages.replies import (
    Describe,
    Description,
    Detokenize,
    DetokenizeReply,
    ErrorReply,
    FlushCache,
    FlushCacheReply,
    Tokenize,
    TokenizeReply,
)

Message = (
    TokenizeJob
    | Dispatched
    | GenerateJob
    | Progress
    | TokenBatch
    | TextBatch
    | BatchAck
    | Failed
    | Released
    | Reattach
    | Abort
    | Heartbeat
    | PresenceProbe
    | KvEvent
    | Tokenize
    | TokenizeReply
    | Detokenize
    | DetokenizeReply
    | FlushCache
    | FlushCacheReply
    | Describe
    | Description
    | ErrorReply
)

__all__ = [
    "Abort",
    "BatchAck",
    "ChatPrompt",
    "Describe",
    "Description",
    "Detokenize",
    "DetokenizeReply",
    "Dispatched",
    "ErrorCode",
    "ErrorReply",
    "Failed",
    "FinishReason",
    "FlushCache",
    "FlushCacheReply",
    "GenerateJob",
    "Heartbeat",
    "InstanceState",
    "KvEvent",
    "LogprobColumns",
    "LogprobTexts",
    "Message",
    "Peer",
    "PresenceProbe",
    "Progress",
    "Prompt",
    "Reattach",
    "ReattachPoint",
    "Released",
    "RequestState",
    "SequenceStart",
    "Stage",
    "StreamFinish",
    "StreamOpen",
    "StreamSettings",
    "StreamStart",
    "TextBatch",
    "TextFinish",
    "TextPrompt",
    "TokenBatch",
    "Tokenize",
    "TokenizeJob",
    "TokenizeReply",
    "TokensPrompt",
]
