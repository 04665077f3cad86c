"""A tokenizer that gets nonsense goes on working."""

import random
import secrets
from typing import Any

import msgspec

from tests.unit.tokenizer_svc.jobs import job
from tests.unit.tokenizer_svc.scene import MODEL_KEY, QUEUED, Scene
from wire import subjects
from wire.codec import encode
from wire.messages import (
    Abort,
    BatchAck,
    ChatPrompt,
    Describe,
    Dispatched,
    Failed,
    GenerateJob,
    Peer,
    Progress,
    SequenceStart,
    Stage,
    TextPrompt,
    Tokenize,
    TokensPrompt,
)
from wire.sampling import SamplingParams

NUM_MESSAGES = 300
_TEXTS = ["", "the capital", "\x00\ufffd\U0001f600", "<|im_start|>" * 50, " " * 3000]
_CONTENTS: list[Any] = [None, "", "hi", 7, [], [{}], [{"type": "text"}], [None], {"a": 1}, [{"type": "audio"}]]
_PEERS = [Peer("gateway-x", 1), Peer("no.dots.allowed", 1), Peer("", 0), Peer("*", 2**60)]


def random_prompt(rng: random.Random) -> TextPrompt | ChatPrompt | TokensPrompt:
    message = {
        "role": rng.choice(["user", "critic", 5, None]),
        "content": rng.choice(_CONTENTS),
        "tool_calls": [rng.choice(_CONTENTS)],
    }
    kwargs = {rng.choice(["tools", "x", "self", "documents"]): rng.choice(_CONTENTS)}
    chat = ChatPrompt(
        messages=[message] * rng.randrange(3),
        template_kwargs=kwargs,
        tools=rng.choice([None, [{}], [{"function": None}]]),
        continue_final_message=rng.random() < 0.3,
    )
    return rng.choice([TextPrompt(rng.choice(_TEXTS)), TokensPrompt(rng.randbytes(rng.randrange(40))), chat])


def random_message(rng: random.Random) -> msgspec.Struct:
    sampling = SamplingParams(
        max_new_tokens=rng.choice([None, -1, 0, 8, 2**40]),
        n=rng.choice([0, 1, 2**40]),
        logit_bias={rng.randrange(-5, 500): 1.0},
    )
    attempt = job(
        rng.choice([rng.getrandbits(64), -1, 2**64 - 1]),
        random_prompt(rng),
        gateway=rng.choice(_PEERS),
        sampling=rng.choice([sampling, SamplingParams()]),
        sequences=(SequenceStart(0, rng.randbytes(rng.randrange(9))),) * rng.randrange(3),
        is_resume=rng.random() < 0.3,
        sampling_from_model=rng.choice([(), ("temperature", "nonsense", "n")]),
    )
    peer = rng.choice(_PEERS)
    return rng.choice(
        [
            attempt,
            attempt,
            Abort(peer, rng.getrandbits(64)),
            BatchAck(peer, peer, 1),
            Describe(),
            Tokenize(prompts=(random_prompt(rng),)),
        ]
    )


async def test_no_message_and_no_bytes_stop_a_tokenizer(scene: Scene) -> None:
    seed = secrets.randbelow(2**32)
    rng = random.Random(seed)
    name = (MODEL_KEY, Stage.TOKENIZER, scene.instance_id)
    targets = [subjects.data(*name), subjects.control(*name), subjects.rpc(*name), subjects.abort(MODEL_KEY)]
    bus = scene.gateway.node.data
    for _ in range(NUM_MESSAGES):
        payload = encode(random_message(rng)) if rng.random() < 0.8 else rng.randbytes(rng.randrange(100))
        await bus.publish_encoded(rng.choice(targets), payload, reply_to=rng.choice(["", "nobody.listens"]))
    await scene.send(7)
    served = await scene.worker.inbox.wait_for(GenerateJob, lambda generate: generate.key == 7)
    assert served.request_id == "request-7", f"seed {seed}"
    await scene.service.drain()
    assert scene.service.num_held == 0, f"seed {seed}"


async def test_a_key_that_is_none_is_never_held(scene: Scene) -> None:
    await scene.plug.push()
    await scene.send(-1, QUEUED)
    await scene.send(7, QUEUED)
    await scene.gateway.inbox.wait_for(Progress)
    assert scene.service.num_held == 1


async def test_every_accepted_request_ends_in_one_terminal_message(scene: Scene) -> None:
    seed = secrets.randbelow(2**32)
    rng = random.Random(seed)
    keys = range(1, 200)
    for key in keys:
        await scene.send(key, random_prompt(rng), sampling=SamplingParams(max_new_tokens=rng.choice([None, 8, 80])))
    ended: dict[int, int] = dict.fromkeys(keys, 0)
    await scene.gateway.inbox.wait_until(lambda inbox: len(inbox.of(Failed)) + len(inbox.of(Dispatched)) >= len(keys))
    await scene.service.drain()
    await scene.gateway.node.data.flush()
    for message in [*scene.gateway.inbox.of(Failed), *scene.gateway.inbox.of(Dispatched)]:
        ended[message.key] += 1
    assert set(ended.values()) == {1}, f"seed {seed}"
    assert sum(progress.is_receipt for progress in scene.gateway.inbox.of(Progress)) == len(keys)
