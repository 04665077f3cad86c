"""The requests that get a reply and no generation: Tokenize, Detokenize, Describe."""

import asyncio
import functools
import logging

from tokenizer_svc.errors import RequestError
from tokenizer_svc.lanes import EncodingLanes, size_of
from tokenizer_svc.served_model import ServedModel
from wire.bus import Bus, Delivery, MessageTooLargeError
from wire.messages import (
    Describe,
    Description,
    Detokenize,
    DetokenizeReply,
    ErrorCode,
    ErrorReply,
    Message,
    Tokenize,
    TokenizeReply,
)

log = logging.getLogger(__name__)


class Questions:
    """Answers each question in a task of its own, so that a long one holds up no other."""

    def __init__(self, bus: Bus, model: ServedModel, lanes: EncodingLanes, description: Description) -> None:
        self._bus = bus
        self._model = model
        self._lanes = lanes
        self._description = description
        self._tasks: set[asyncio.Task[None]] = set()

    async def receive(self, message: Message, delivery: Delivery) -> None:
        """The handler of the subscription; a question without a reply subject is nobody's."""
        if delivery.reply_to:
            task = asyncio.create_task(self._reply(message, delivery.reply_to))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finish(self, timeout_s: float) -> None:
        """Waits for the answers in progress and gives up those that take longer."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()

    async def _reply(self, message: Message, reply_to: str) -> None:
        try:
            await self._bus.publish(reply_to, await self._answer(message))
        except RequestError as error:
            await self._bus.publish(reply_to, ErrorReply(error.code, error.message))
        except MessageTooLargeError as error:
            await self._bus.publish(reply_to, ErrorReply(ErrorCode.TOO_LARGE, str(error)))
        except Exception:
            log.exception("%s failed", type(message).__name__)
            await self._bus.publish(reply_to, ErrorReply(ErrorCode.INTERNAL, "The tokenizer failed; see its log."))

    async def _answer(self, message: Message) -> Message:
        match message:
            case Tokenize():
                return await self._tokenize(message)
            case Detokenize():
                return await self._detokenize(message)
            case Describe():
                return self._description
            case _:
                kind = type(message).__name__
                raise RequestError(ErrorCode.INVALID_REQUEST, f"A tokenizer does not answer {kind}.")

    async def _tokenize(self, question: Tokenize) -> TokenizeReply:
        encode = functools.partial(self._model.encode, add_special_tokens=question.add_special_tokens)
        columns = [
            await self._lanes.run(size_of(prompt), functools.partial(encode, prompt)) for prompt in question.prompts
        ]
        return TokenizeReply(tuple(columns), self._model.window.length)

    async def _detokenize(self, question: Detokenize) -> DetokenizeReply:
        decode = functools.partial(self._model.decode, skip_special_tokens=question.skip_special_tokens)
        texts = [await self._lanes.run(len(ids), functools.partial(decode, ids)) for ids in question.token_ids]
        return DetokenizeReply(tuple(texts))
