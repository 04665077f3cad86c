"""What each stage's user may do at the broker of deploy/nats.conf: all that its stage does, and nothing else."""

import os
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry

from gateway.http.native_routes import _LONGEST_FLUSH_S
from launcher.nats import find_nats_server
from tests.unit.deploy.secured_broker import NATS_CONF, SecuredBroker, running_secured_broker
from wire import subjects
from wire.bus import Bus
from wire.login import BusOptions
from wire.messages import Stage
from wire.metrics import BusMetrics

GATEWAY, TOKENIZER, WORKER, DETOKENIZER = Stage.GATEWAY, Stage.TOKENIZER, Stage.WORKER, Stage.DETOKENIZER
EVERYBODY = frozenset(Stage)
NOBODY: frozenset[Stage] = frozenset()
MODEL = subjects.model_key("demo")


def _id(stage: Stage) -> str:
    return f"{stage.value}-00000001"


def _each(made: Callable[[str, Stage, str], str]) -> dict[Stage, str]:
    return {stage: made(MODEL, stage, _id(stage)) for stage in Stage}


DATA, CONTROL, RPC = _each(subjects.data), _each(subjects.control), _each(subjects.rpc)
TO_GATEWAY = subjects.gateway(_id(GATEWAY))
ABORT = subjects.abort(MODEL)
KV = subjects.kv(MODEL, _id(WORKER))
PRESENCE = {stage: subjects.presence(stage, _id(stage)) for stage in Stage}
INBOX = {stage: f"{subjects.inbox(stage)}.nuid.1f" for stage in Stage}

PUBLISHERS: dict[str, frozenset[Stage]] = {
    DATA[TOKENIZER]: frozenset({GATEWAY}),  # TokenizeJob
    DATA[WORKER]: frozenset({TOKENIZER}),  # GenerateJob
    DATA[DETOKENIZER]: frozenset({WORKER}),  # TokenBatch
    TO_GATEWAY: frozenset({TOKENIZER, WORKER, DETOKENIZER}),  # Progress, Dispatched, TextBatch, Failed
    CONTROL[TOKENIZER]: frozenset({GATEWAY}),  # Abort
    CONTROL[WORKER]: frozenset({GATEWAY, DETOKENIZER}),  # BatchAck, Abort, Reattach
    CONTROL[DETOKENIZER]: frozenset({GATEWAY}),
    ABORT: frozenset({GATEWAY}),
    RPC[TOKENIZER]: frozenset({GATEWAY}),
    RPC[WORKER]: frozenset({GATEWAY}),
    RPC[DETOKENIZER]: frozenset({GATEWAY}),
    RPC[GATEWAY]: NOBODY,  # whoever will ask gateways gets the permission then
    KV: frozenset({WORKER}),
    subjects.PROBE: EVERYBODY,
    subjects.probe(_id(WORKER)): EVERYBODY,
    **dict.fromkeys(INBOX.values(), NOBODY),  # but for one answer to who has asked
    **{subject: frozenset({stage}) for stage, subject in PRESENCE.items()},  # nobody speaks for another stage
    "mr.v1": NOBODY,
    "mr.v2.gateway.gateway-00000001": NOBODY,
    "anything": NOBODY,
    "$SYS.REQ.SERVER.PING": NOBODY,
    "$JS.API.INFO": NOBODY,
}
SUBSCRIBERS: dict[str, frozenset[Stage]] = {
    TO_GATEWAY: frozenset({GATEWAY}),
    **{DATA[stage]: frozenset({stage}) for stage in (TOKENIZER, WORKER, DETOKENIZER)},
    **{CONTROL[stage]: frozenset({stage}) for stage in (TOKENIZER, WORKER, DETOKENIZER)},
    **{RPC[stage]: frozenset({stage}) for stage in Stage},
    ABORT: frozenset({TOKENIZER, WORKER, DETOKENIZER}),
    KV: frozenset({TOKENIZER}),
    subjects.ALL_PRESENCE: EVERYBODY,
    subjects.PROBE: EVERYBODY,
    subjects.probe(_id(WORKER)): EVERYBODY,
    **{f"{subjects.inbox(stage)}.nuid.*": frozenset({stage}) for stage in Stage},
    "_INBOX.>": NOBODY,
    "mr.v1.>": NOBODY,
    "mr.v1.*.*": NOBODY,
    f"mr.v1.{MODEL}.*.*": NOBODY,
    ">": NOBODY,
    "$SYS.>": NOBODY,
}

Login = Callable[[Stage], Awaitable[Client]]
Refused = list[str]


@pytest.fixture(scope="module")
def broker() -> Iterator[SecuredBroker]:
    with running_secured_broker() as running:
        yield running


@pytest.fixture
def refused() -> Refused:
    """What the broker has refused so far."""
    return []


@pytest.fixture
async def login(broker: SecuredBroker, refused: Refused) -> AsyncIterator[Login]:
    clients = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    async def connect(stage: Stage) -> Client:
        client = await nats.connect(broker.url_of(stage), error_cb=note, inbox_prefix=subjects.inbox(stage))
        clients.append(client)
        return client

    yield connect
    for client in clients:
        await client.close()


async def _settle(client: Client) -> None:
    """Returns when the broker has judged all that was sent; the client's first ping may overtake what waits."""
    await client.flush()
    await client.flush()


def _is_told(refused: Refused, kind: str, subject: str) -> bool:
    expected = f'nats: permissions violation for {kind} to "{subject}"'.lower()  # as the client gives it
    return any(text.startswith(expected) for text in refused)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("subject", PUBLISHERS)
async def test_who_may_publish(login: Login, refused: Refused, subject: str, stage: Stage) -> None:
    client = await login(stage)
    await client.publish(subject, b"", reply=f"{subjects.inbox(stage)}.nuid.1f")
    await _settle(client)
    assert _is_told(refused, "publish", subject) is (stage not in PUBLISHERS[subject])
    assert bool(refused) is (stage not in PUBLISHERS[subject])


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("subject", SUBSCRIBERS)
async def test_who_may_listen(login: Login, refused: Refused, subject: str, stage: Stage) -> None:
    client = await login(stage)
    await client.subscribe(subject)
    await _settle(client)
    assert _is_told(refused, "subscription", subject) is (stage not in SUBSCRIBERS[subject])
    assert bool(refused) is (stage not in SUBSCRIBERS[subject])


async def test_a_wildcard_of_a_stage_covers_no_other(login: Login, refused: Refused) -> None:
    client = await login(DETOKENIZER)
    await client.subscribe("mr.v1.*.detokenizer.*")
    await _settle(client)
    assert not refused
    await client.subscribe("mr.v1.*.*.*")
    await _settle(client)
    assert len(refused) == 1


@pytest.mark.parametrize("stage", Stage)
async def test_every_stage_learns_that_nobody_listens(login: Login, stage: Stage) -> None:
    client = await login(stage)
    with pytest.raises(nats.errors.NoRespondersError):
        await client.request(subjects.probe(_id(WORKER)), b"", timeout=10)


@pytest.mark.parametrize("stage", Stage)
async def test_who_is_asked_may_answer_once(login: Login, refused: Refused, stage: Stage) -> None:
    asking, asked = await login(GATEWAY), await login(stage)

    async def answer(message: Msg) -> None:
        await message.respond(b"here")
        await message.respond(b"and again")

    await asked.subscribe(subjects.probe(_id(stage)), cb=answer)
    await _settle(asked)
    assert (await asking.request(subjects.probe(_id(stage)), b"", timeout=10)).data == b"here"
    await _settle(asked)
    assert len(refused) == 1


async def assert_locked_out(broker: SecuredBroker, user: str, password: str) -> None:
    options = BusOptions(url=broker.url, user=user, password=password, connect_timeout_s=0.5)
    with pytest.raises(ConnectionError, match=r"(?i)authorization"):
        await Bus.connect(options, "test", BusMetrics(CollectorRegistry()))


@pytest.mark.parametrize(
    ("user", "password"), [("", ""), ("gateway", ""), ("gateway", "p"), ("nobody", "p"), ("$SYS", "p")]
)
async def test_nobody_else_gets_in(broker: SecuredBroker, user: str, password: str) -> None:
    await assert_locked_out(broker, user, password)


async def test_a_stages_password_opens_no_other_stages_door(broker: SecuredBroker) -> None:
    await assert_locked_out(broker, GATEWAY.value, broker.passwords[DETOKENIZER])


@pytest.mark.parametrize("missing", [stage.name for stage in Stage])
def test_the_broker_does_not_start_without_every_password(missing: str) -> None:
    names = {f"NATS_{stage.name}_PASSWORD" for stage in Stage} - {f"NATS_{missing}_PASSWORD"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NATS_")}
    environ = kept | dict.fromkeys(names, "p1")
    checked = subprocess.run(
        [find_nats_server(), "-c", NATS_CONF, "-t"], env=environ, capture_output=True, text=True, check=False
    )
    assert checked.returncode != 0
    assert f"NATS_{missing}_PASSWORD" in checked.stderr


def test_a_worker_may_answer_as_late_as_a_cache_flush_can_take() -> None:
    block = NATS_CONF.read_text().partition("user: worker")[2].partition("user: ")[0]
    minutes = re.search(r'allow_responses: \{ max: 1, expires: "(\d+)m" \}', block)
    assert minutes is not None
    assert int(minutes[1]) * 60 > _LONGEST_FLUSH_S
