"""Two instances of every stage: traffic spreads over them, and a request survives the death of any one.

The workers run in float64, where batch company changes nothing, so a disturbed stream equals an undisturbed one.
"""

import asyncio
import itertools
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests

from tests.pipeline.streams import Stream
from tests.pipeline.system import StageInstance, System, running_system
from tests.unit.wire.conftest import connect
from wire import subjects
from wire.bus import Delivery, Handler
from wire.messages import Message, Stage

NUM_STREAMS = 8
NUM_TOKENS = 96
STAGES_BEHIND_THE_GATEWAY = (Stage.TOKENIZER, Stage.WORKER, Stage.DETOKENIZER)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Two of everything."""
    with running_system(
        tmp_path_factory.mktemp("pair"),
        gateways=2,
        tokenizers=2,
        workers=2,
        detokenizers=2,
        worker={"dtype": "float64"},
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def _complete(pair: System) -> Iterator[None]:
    """After a test that ended an instance there are two again, which everybody knows, and nothing is held."""
    yield
    missing = {stage: 2 - len(pair.of(stage)) for stage in Stage}
    pair.start(missing)
    pair.at_rest()


def bodies() -> list[dict[str, Any]]:
    """Requests of several kinds: greedy and sampled, short and long prompts, text of several bytes per character."""
    prompts = ["The capital of France is", "Grüße an 世界 😀", "List 3 countries", "x " * 200]
    return [
        {
            "text": f"{number}: {prompts[number % 4]}",
            "return_logprob": number % 3 == 0,
            "sampling_params": {
                "max_new_tokens": NUM_TOKENS,
                "ignore_eos": True,
                "temperature": (0, 3.0)[number % 2],
                "sampling_seed": number,
                "frequency_penalty": (0, 0.5)[number // 2 % 2],
            },
        }
        for number in range(NUM_STREAMS)
    ]


@pytest.fixture(scope="module")
def undisturbed(pair: System) -> list[dict[str, Any]]:
    """What the requests give when nothing happens."""
    streams = [Stream(pair.url, body) for body in bodies()]
    return [stream.result() for stream in streams]


def served_by(pair: System, stage: Stage) -> dict[str, int]:
    """What each instance of a stage has to do, by its next heartbeat."""
    ids = {instance.instance_id for instance in pair.of(stage)}
    loads: dict[str, int] = {}

    def has_all(beats: dict[str, Any]) -> bool:
        loads.update({i: beats[i].num_running for i in ids & beats.keys()})
        return loads.keys() == ids

    pair.observer.wait_until(has_all, "all have told their load")
    return loads


def busiest(pair: System, stage: Stage) -> StageInstance:
    """The instance that has most to do, so that ending it is a loss."""
    loads = served_by(pair, stage)
    name = max(loads, key=lambda instance_id: loads[instance_id])
    return next(instance for instance in pair.of(stage) if instance.instance_id == name)


def started_streams(pair: System) -> list[Stream]:
    """Streams that have all begun and are far from their end."""
    streams = [Stream(pair.url, body) for body in bodies()]
    for stream in streams:
        stream.wait_for_tokens(10)
    return streams


def logprob_ids(output: dict[str, Any]) -> list[int]:
    """The ids that have a logprob; none if none were asked for."""
    return [token_id for _, token_id, _ in output["meta_info"].get("output_token_logprobs", ())]


def num_repeated_attempts(pair: System) -> float:
    """Attempts that were made because one before had failed."""
    attempts = pair.metrics("millrace_gateway_attempts_total")
    return sum(count for cause, count in attempts.items() if 'cause="new"' not in cause)


def assert_equal(streams: list[Stream], undisturbed: list[dict[str, Any]]) -> None:
    for stream, expected in zip(streams, undisturbed, strict=True):
        result = stream.result()
        assert result["output_ids"] == expected["output_ids"]
        assert result["text"] == expected["text"]
        assert result["meta_info"]["finish_reason"] == expected["meta_info"]["finish_reason"]
        assert result["meta_info"]["completion_tokens"] == NUM_TOKENS
        assert logprob_ids(result) == logprob_ids(expected)


def test_undisturbed_runs_are_equal(pair: System, undisturbed: list[dict[str, Any]]) -> None:
    assert_equal([Stream(pair.url, body) for body in bodies()], undisturbed)


async def test_traffic_spreads_over_both_instances_of_every_stage(pair: System) -> None:
    num_messages: Counter[str] = Counter()
    bus = await connect(pair.nats_url)
    for stage in STAGES_BEHIND_THE_GATEWAY:
        for instance in pair.of(stage):
            subject = subjects.data(subjects.model_key("demo"), stage, instance.instance_id)
            await bus.subscribe(subject, _counting(num_messages, instance.instance_id))
    await bus.flush()
    streams = [Stream(pair.url_of(gateway), body) for gateway in pair.of(Stage.GATEWAY) for body in bodies()]
    for stream in streams:
        await asyncio.to_thread(stream.result)
    await bus.close()
    for stage in STAGES_BEHIND_THE_GATEWAY:
        assert all(num_messages[instance.instance_id] > 0 for instance in pair.of(stage)), num_messages
    assert sum(num_messages[instance.instance_id] for instance in pair.of(Stage.TOKENIZER)) == len(streams)


def _counting(num_messages: Counter[str], instance_id: str) -> Handler:
    async def count(_: Message, __: Delivery) -> None:
        num_messages[instance_id] += 1

    return count


@pytest.mark.parametrize("stage", STAGES_BEHIND_THE_GATEWAY)
def test_every_stream_outlives_the_death_of_one_instance(
    pair: System, undisturbed: list[dict[str, Any]], stage: Stage
) -> None:
    repeated_before = num_repeated_attempts(pair)
    streams = started_streams(pair)
    victim = busiest(pair, stage)
    victim.process.popen.kill()
    assert_equal(streams, undisturbed)
    assert victim.process.wait() == -signal.SIGKILL
    if stage is not Stage.TOKENIZER:  # which holds nothing of a stream that has begun
        assert num_repeated_attempts(pair) > repeated_before


def test_a_stream_without_a_seed_goes_on_with_the_one_that_was_drawn_for_it(pair: System) -> None:
    sampling = {"max_new_tokens": NUM_TOKENS, "ignore_eos": True, "temperature": 3.0}
    repeated_before = num_repeated_attempts(pair)
    streams = [Stream(pair.url, {"text": "Tell", "sampling_params": sampling}) for _ in range(4)]
    for stream in streams:
        stream.wait_for_tokens(10)
    busiest(pair, Stage.WORKER).process.popen.kill()
    disturbed = {stream.result()["meta_info"]["sampling_seed"]: stream.result()["output_ids"] for stream in streams}
    assert num_repeated_attempts(pair) > repeated_before
    bodies = [{"text": "Tell", "sampling_params": sampling | {"sampling_seed": seed}} for seed in disturbed]
    twins = [Stream(pair.url, body) for body in bodies]
    assert [twin.result()["output_ids"] for twin in twins] == list(disturbed.values())
    assert len({tuple(ids) for ids in disturbed.values()}) == len(streams), "each had a seed of its own"


@pytest.mark.parametrize("stage", STAGES_BEHIND_THE_GATEWAY)
def test_a_drained_instance_leaves_with_status_zero_and_no_stream_notices(
    pair: System, undisturbed: list[dict[str, Any]], stage: Stage
) -> None:
    streams = started_streams(pair)
    leaving = busiest(pair, stage)
    leaving.process.popen.terminate()
    assert leaving.process.wait() == 0, leaving.process.log
    assert_equal(streams, undisturbed)


def test_all_choices_of_a_chat_outlive_the_death_of_their_worker(pair: System) -> None:
    ask: Any = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Tell me about 世界 and 😀."}],
        "n": 3,
        "seed": 5,
        "temperature": 4.0,
        "max_tokens": NUM_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
        "extra_body": {"ignore_eos": True},
    }

    def texts(chunks: Iterator[Any]) -> dict[int, str]:
        shown = {0: "", 1: "", 2: ""}
        for chunk in chunks:
            for choice in chunk.choices:
                shown[choice.index] += choice.delta.content or ""
            if chunk.usage is not None and not chunk.choices:
                assert chunk.usage.completion_tokens == 3 * NUM_TOKENS
        return shown

    with openai.Client(base_url=f"{pair.url}/v1", api_key="None", max_retries=0, timeout=120) as client:
        expected = texts(client.chat.completions.create(**ask))
        stream = client.chat.completions.create(**ask)
        begun = list(itertools.islice(stream, 12))
        busiest(pair, Stage.WORKER).process.popen.kill()
        assert texts(itertools.chain(begun, stream)) == expected


def test_requests_that_arrive_while_a_tokenizer_dies_are_served(
    pair: System, undisturbed: list[dict[str, Any]]
) -> None:
    streams = [Stream(pair.url, body) for body in bodies()]
    pair.of(Stage.TOKENIZER)[0].process.popen.kill()
    assert_equal(streams, undisturbed)


def test_a_drained_gateway_finishes_its_streams_and_takes_no_more(
    pair: System, undisturbed: list[dict[str, Any]]
) -> None:
    streams = started_streams(pair)
    gateway = pair.of(Stage.GATEWAY)[0]
    gateway.process.popen.terminate()
    assert gateway.process.wait() == 0, gateway.process.log
    assert_equal(streams, undisturbed)


def test_what_a_dead_gateway_asked_for_is_given_up(pair: System) -> None:
    gateway = pair.of(Stage.GATEWAY)[0]
    body: dict[str, Any] = {
        "text": "Tell",
        "sampling_params": {"max_new_tokens": 3500, "ignore_eos": True},
        "stream": True,
    }
    with requests.post(f"{pair.url_of(gateway)}/generate", json=body, stream=True, timeout=60) as response:
        lines = response.iter_lines()  # to be kept: the connection is closed with it
        assert next(lines).startswith(b"data: ")
        gateway.process.popen.kill()
        gateway.process.wait()
        pair.at_rest()
