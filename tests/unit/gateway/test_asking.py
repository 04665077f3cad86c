"""Questions to other stages do not pile up without bound."""

import asyncio

from gateway.asking import Asking
from gateway.errors import RequestError
from tests.unit.gateway.conftest import Scene
from wire.messages import TextPrompt, Tokenize, TokenizeReply

MOST = 1024


async def test_one_question_too_many_is_a_429_and_the_others_are_answered(scene: Scene) -> None:
    asking = Asking(scene.node)
    question = Tokenize(prompts=(TextPrompt("abc"),))

    answers = await asyncio.gather(*(asking.tokenize(question) for _ in range(MOST + 1)), return_exceptions=True)

    (refused,) = [answer for answer in answers if not isinstance(answer, TokenizeReply)]
    assert isinstance(refused, RequestError)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    assert isinstance(await asking.tokenize(question), TokenizeReply)
