"""Questions to single instances of other stages: ids, texts, descriptions, cache flushes."""

import asyncio
from typing import TypeVar

from gateway.errors import RequestError, from_code, too_large, unavailable, unencodable
from wire import subjects
from wire.bus import MessageTooLargeError, NoReplyError
from wire.codec import UndecodableMessageError
from wire.messages import (
    Describe,
    Description,
    Detokenize,
    DetokenizeReply,
    ErrorReply,
    FlushCache,
    FlushCacheReply,
    Message,
    Stage,
    Tokenize,
    TokenizeReply,
)
from wire.node import Node
from wire.presence import Member, choose

_TEXT_TIMEOUT_S = 30.0
_DESCRIBE_TIMEOUT_S = 2.0
_MAX_QUESTIONS = 1024
R = TypeVar("R")


class Asking:
    """Sends a request to one instance and gives its reply, or raises what the client is to be told."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._num_questions = 0

    async def tokenize(self, request: Tokenize) -> TokenizeReply:
        """Ids of prompts."""
        return await self._ask(self._tokenizer(), request, TokenizeReply, _TEXT_TIMEOUT_S)

    async def detokenize(self, request: Detokenize) -> DetokenizeReply:
        """Texts of ids."""
        return await self._ask(self._tokenizer(), request, DetokenizeReply, _TEXT_TIMEOUT_S)

    async def describe(self, member: Member) -> Description:
        """What an instance runs with."""
        return await self._ask(member, Describe(), Description, _DESCRIBE_TIMEOUT_S)

    async def describe_stage(self, stage: Stage) -> list[Description]:
        """Every instance of a stage that answers."""
        answers = await asyncio.gather(*map(self.describe, self.instances(stage)), return_exceptions=True)
        return [answer for answer in answers if isinstance(answer, Description)]

    async def flush_caches(self, timeout_s: float) -> list[FlushCacheReply]:
        """Asks every worker to drop its prefix cache."""
        workers = self.instances(Stage.WORKER)
        if not workers:
            raise unavailable(Stage.WORKER)
        asked = (
            self._ask(worker, FlushCache(timeout_s), FlushCacheReply, timeout_s + _DESCRIBE_TIMEOUT_S)
            for worker in workers
        )
        return await asyncio.gather(*asked)

    def instances(self, stage: Stage) -> list[Member]:
        """The ready instances of a stage that serve this model."""
        return self._node.members.ready(stage, self._node.instance.served_model_name)

    def _tokenizer(self) -> Member:
        tokenizer = choose(self.instances(Stage.TOKENIZER))
        if tokenizer is None:
            raise unavailable(Stage.TOKENIZER)
        return tokenizer

    async def _ask(self, member: Member, request: Message, kind: type[R], timeout_s: float) -> R:
        """Raises a 429 while too many wait for their replies: the tokenizer has a queue of them, and does not count."""
        if self._num_questions >= _MAX_QUESTIONS:
            raise RequestError(429, f"More than {_MAX_QUESTIONS} questions wait.", headers={"Retry-After": "1"})
        self._num_questions += 1
        try:
            return await self._reply(member, request, kind, timeout_s)
        finally:
            self._num_questions -= 1

    async def _reply(self, member: Member, request: Message, kind: type[R], timeout_s: float) -> R:
        stage = member.heartbeat.stage
        subject = subjects.rpc(self._node.instance.model_key, stage, member.instance_id)
        try:
            reply = await self._node.data.request(subject, request, timeout_s)
        except MessageTooLargeError as error:
            raise too_large(error.size, error.limit) from error
        except OverflowError as error:
            raise unencodable(error) from error
        except (NoReplyError, UndecodableMessageError) as error:
            raise RequestError(503, f"The {stage.value} did not answer: {error}", code="unavailable") from error
        if isinstance(reply, ErrorReply):
            raise from_code(reply.code, reply.message)
        if not isinstance(reply, kind):
            raise RequestError(500, f"The {stage.value} answered with {type(reply).__name__}.", code="internal_error")
        return reply
