"""SGLang's routes, as its clients call them."""

import json
from typing import Any

import pytest

from tests.unit.gateway.conftest import MakeScene, Scene
from tests.unit.gateway.scripted import CACHED_TOKENS, CONTEXT_LENGTH, begin, text_of
from wire.columns import unpack_u32
from wire.messages import TokensPrompt

ASK: dict[str, Any] = {"text": "hello", "sampling_params": {"max_new_tokens": 3}}


async def test_one_prompt_is_answered_by_one_object(scene: Scene) -> None:
    answer = (await scene.post("/generate", ASK)).json()

    assert answer["text"] == text_of(3)
    assert answer["output_ids"] == [1000, 1001, 1002]
    meta = answer["meta_info"]
    assert meta["finish_reason"] == {"type": "length", "length": 3}
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"]) == (5, 3, CACHED_TOKENS)
    assert meta["e2e_latency"] > 0
    assert "index" not in answer


async def test_put_works_too_and_no_content_type_is_needed(scene: Scene) -> None:
    answer = await scene.http.put("/generate", content=json.dumps(ASK))

    assert answer.json()["text"] == text_of(3)


@pytest.mark.parametrize("texts", [["a"], ["a", "bb"]])
async def test_a_list_is_answered_by_a_list_in_order(scene: Scene, texts: list[str]) -> None:
    answers = (await scene.post("/generate", ASK | {"text": texts, "rid": "mine"})).json()

    assert [answer["meta_info"]["prompt_tokens"] for answer in answers] == [len(text) for text in texts]
    assert [answer["meta_info"]["id"] for answer in answers] == [f"mine_{i}" for i in range(len(texts))]


async def test_n_choices_are_listed_prompt_by_prompt(scene: Scene) -> None:
    params = {"max_new_tokens": 2, "n": 2}
    answers = (await scene.post("/generate", {"text": ["a", "bb"], "sampling_params": params})).json()

    assert [answer["meta_info"]["prompt_tokens"] for answer in answers] == [1, 1, 2, 2]
    assert len({answer["meta_info"]["id"] for answer in answers}) == 4


async def test_a_stream_is_cumulative_and_ends_with_done(scene: Scene) -> None:
    *events, done = await scene.post_stream("/generate", ASK | {"stream": True})
    answers = [json.loads(event) for event in events]

    assert done == "[DONE]"
    assert [answer["text"] for answer in answers][-1] == text_of(3)
    for answer in answers:
        num_tokens = answer["meta_info"]["completion_tokens"]
        assert answer["text"] == text_of(num_tokens)
        assert len(answer["output_ids"]) == num_tokens
    assert [answer["meta_info"]["finish_reason"] for answer in answers][:-1] == [None] * (len(answers) - 1)


async def test_an_incremental_stream_sends_each_part_once(make_scene: MakeScene) -> None:
    scene = await make_scene(incremental_streaming_output=True)
    *events, _ = await scene.post_stream("/generate", ASK | {"stream": True, "return_logprob": True})
    answers = [json.loads(event) for event in events]

    assert "".join(answer["text"] for answer in answers) == text_of(3)
    assert [token_id for answer in answers for token_id in answer["output_ids"]] == [1000, 1001, 1002]
    logprobs = [triple for answer in answers for triple in answer["meta_info"]["output_token_logprobs"]]
    assert [triple[1] for triple in logprobs] == [1000, 1001, 1002]
    assert answers[-1]["meta_info"]["completion_tokens"] == 3


async def test_events_of_a_batch_carry_their_index(scene: Scene) -> None:
    *events, _ = await scene.post_stream("/generate", ASK | {"text": ["a", "b"], "stream": True})
    last = {answer["index"]: answer["text"] for answer in map(json.loads, events)}

    assert last == {0: text_of(3), 1: text_of(3)}


async def test_stream_interval_spaces_the_events(scene: Scene) -> None:
    scene.pipeline.script = begin
    ask = {"text": "x", "stream": True, "sampling_params": {"max_new_tokens": 100, "stream_interval": 10}}
    async with scene.http.stream("POST", "/generate", json=ask) as response:
        job = await scene.pipeline.job_arrived.get()
        lines = response.aiter_lines()
        assert _num_tokens(await anext(lines)) == 1
        await anext(lines)
        await scene.pipeline.send(job, [(0, 1, 8)])  # nine in all: one too few for an event
        await scene.pipeline.send(job, [(0, 9, 2)])
        assert _num_tokens(await anext(lines)) == 11
        await scene.post("/abort_request", {"rid": job.request_id})
        assert [line async for line in lines if line][-1] == "data: [DONE]"


async def test_logprobs_are_triples_with_text_only_if_asked_for(scene: Scene) -> None:
    ask = ASK | {"return_logprob": True, "top_logprobs_num": 2}
    meta = (await scene.post("/generate", ask)).json()["meta_info"]
    assert meta["output_token_logprobs"] == [[0.0, 1000, None], [-1.0, 1001, None], [-2.0, 1002, None]]
    assert meta["output_token_logprobs_length"] == 3
    assert [tops[0] for tops in meta["output_top_logprobs"]] == meta["output_token_logprobs"]

    meta = (await scene.post("/generate", ask | {"return_text_in_logprobs": True})).json()["meta_info"]
    assert "".join(triple[2] for triple in meta["output_token_logprobs"]) == text_of(3)


async def test_prompt_ids_are_given_back_if_asked_for(scene: Scene) -> None:
    ask = {"input_ids": [5, 6], "sampling_params": {"max_new_tokens": 1}, "return_prompt_token_ids": True}
    answer = (await scene.post("/generate", ask)).json()

    assert answer["prompt_token_ids"] == [5, 6]
    prompt = scene.pipeline.jobs[-1].prompt
    assert isinstance(prompt, TokensPrompt)
    assert unpack_u32(prompt.token_ids).tolist() == [5, 6]

    answers = (await scene.post("/generate", ask | {"text": ["a", "b"], "input_ids": None})).json()
    assert [answer["prompt_token_ids"] for answer in answers] == [[97], [98]]


async def test_the_number_of_tokens_defaults_to_128_and_null_means_the_context(scene: Scene) -> None:
    await scene.post("/generate", {"text": "x"})
    assert scene.pipeline.jobs[-1].sampling.max_new_tokens == 128
    await scene.post("/generate", {"text": "x", "sampling_params": {"max_new_tokens": None}})
    assert scene.pipeline.jobs[-1].sampling.max_new_tokens is None


@pytest.mark.parametrize(("params", "is_cut"), [({}, True), ({"max_new_tokens": 128}, False)])
async def test_only_the_default_limit_may_be_cut_to_the_room_that_is_left(
    scene: Scene, params: dict[str, Any], is_cut: bool
) -> None:
    await scene.post("/generate", {"text": "x", "sampling_params": params})

    assert ("max_new_tokens" in scene.pipeline.jobs[-1].sampling_from_model) is is_cut


async def test_a_seed_is_passed_on_and_else_drawn_anew(scene: Scene) -> None:
    await scene.post("/generate", {"text": "x", "sampling_params": {"sampling_seed": -1, "max_new_tokens": 1}})
    assert scene.pipeline.jobs[-1].sampling.seed == 2**64 - 1
    await scene.post("/generate", {"text": ["x", "y"], "sampling_params": {"max_new_tokens": 1}})
    assert scene.pipeline.jobs[-1].sampling.seed != scene.pipeline.jobs[-2].sampling.seed


async def test_where_logprobs_would_start_matters_only_if_they_are_asked_for(scene: Scene) -> None:
    answer = await scene.post("/generate", ASK | {"return_logprob": False, "logprob_start_len": 0})

    assert "output_token_logprobs" not in answer.json()["meta_info"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Either text, input_ids or input_embeds should be provided."),
        ({"input_ids": []}, "input_ids cannot be empty."),
        ({"text": ["a", "b"], "rid": ["x", "x"]}, "rid must not hold duplicates."),
        ({"text": ["a", "b"], "sampling_params": [{"n": 1}, {"n": 2}]}, "The parallel_sample_num should be the same"),
        ({"text": "a", "sampling_params": {"max_new_tokens": -1}}, "max_new_tokens must be at least 0, got -1."),
        ({"text": "a", "sampling_params": {"top_k": 0}}, "top_k must be -1 (disable) or at least 1, got 0."),
        ({"text": "a", "sampling_params": {"min_p": 2}}, "min_p must be in [0, 1], got 2.0."),
        ({"text": "a", "sampling_params": {"json_schema": "{}"}}, "json_schema is not supported."),
        ({"text": "a", "sampling_params": {"beam_width": 4}}, "beam_width is not supported."),
        ({"text": "a", "lora_path": "x"}, "lora_path is not supported."),
        ({"text": "a", "image_data": "x"}, "image_data is not supported."),
        ({"text": "a", "input_embeds": [[0.1]]}, "input_embeds is not supported."),
        ({"text": "a", "token_ids_logprob": [1]}, "token_ids_logprob is not supported."),
        (
            {"text": "a", "return_logprob": True, "logprob_start_len": 3},
            "logprob_start_len must be -1, since only output",
        ),
        ({"input_ids": ["a"]}, "input_ids: Expected `int`, got `str`"),
        ({"input_ids": [[1], "a"]}, "input_ids: Expected `array`, got `str`"),
        ({"input_ids": [[1], []]}, "input_ids cannot be empty."),
        ({"text": []}, "text cannot be empty."),
        ({"text": "a", "custom_logit_processor": "x"}, "custom_logit_processor is not supported."),
        (
            {"text": "a", "sampling_params": {"min_new_tokens": 9, "max_new_tokens": 3}},
            "min_new_tokens must be in [0, max_new_tokens(3)], got 9.",
        ),
        (
            {"text": "a", "sampling_params": {"repetition_penalty": 0}},
            "repetition_penalty must be in (0, 2] (1.0 = no penalty), got 0.0.",
        ),
        (
            {"text": "a", "sampling_params": {"sampling_seed": 2**63}},
            "sampling_seed must be in [-2**63, 2**63 - 1], got 9223372036854775808.",
        ),
    ],
)
async def test_a_bad_request_is_a_400_that_says_why(scene: Scene, body: dict[str, Any], message: str) -> None:
    answer = await scene.post("/generate", body)

    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"text": "a", "sampling_params": {"seed": 1}}, "unknown field `seed`, expected one of `max_new_tokens`, "),
        ({"text": "a", "sampling_params": {"temperature": "a"}}, "Expected `float | null`, got `str`"),
        ({"text": "a", "sampling_params": {"max_new_tokens": 1.5}}, "got `float`"),
        ({"text": "a", "sampling_params": {"json_schema": {}}}, "got `object`"),
        ({"text": "a", "stream": "true"}, "Expected `bool | null`, got `str`"),
    ],
)
async def test_a_broken_contract_is_a_400_whose_error_is_a_string(
    scene: Scene, body: dict[str, Any], part: str
) -> None:
    answer = await scene.post("/generate", body)

    assert answer.status_code == 400
    assert part in answer.json()["error"]


async def test_what_is_no_json_is_a_400_and_unknown_fields_are_ignored(scene: Scene) -> None:
    broken = await scene.http.post("/generate", content=b'{"text": ')
    assert broken.status_code == 400
    assert broken.json()["object"] == "error"

    neutral = {"lora_path": None, "image_data": [], "priority": 0, "logprob_start_len": -1, "no_such_field": 1}
    assert (await scene.post("/generate", ASK | neutral)).status_code == 200


async def test_aborting_ends_a_request_gracefully(scene: Scene) -> None:
    scene.pipeline.script = begin
    ask = ASK | {"stream": True, "rid": "job-17"}
    async with scene.http.stream("POST", "/generate", json=ask) as response:
        job = await scene.pipeline.job_arrived.get()
        lines = response.aiter_lines()
        await anext(lines)
        assert (await scene.post("/abort_request", {"rid": "job-"})).status_code == 200
        *_, last, done = [line async for line in lines if line]

    assert done == "data: [DONE]"
    reason = json.loads(last.removeprefix("data: "))["meta_info"]["finish_reason"]
    assert reason["type"] == "abort"
    assert (await scene.pipeline.worker.aborts.get()).key == job.key


async def test_aborting_needs_a_name(scene: Scene) -> None:
    assert (await scene.post("/abort_request", {})).status_code == 400
    everything = await scene.post("/abort_request", {"abort_all": True})
    assert (everything.status_code, everything.content) == (200, b"")


async def test_tokenize_gives_ids_counts_and_the_longest_length(scene: Scene) -> None:
    one = (await scene.post("/tokenize", {"prompt": "ab"})).json()
    assert one == {"tokens": [97, 98], "count": 2, "max_model_len": CONTEXT_LENGTH}
    two = (await scene.post("/v1/tokenize", {"prompt": ["a", "bc"]})).json()
    assert (two["tokens"], two["count"]) == ([[97], [98, 99]], [1, 2])
    chat = (await scene.post("/tokenize", {"messages": [{"role": "user", "content": "x"}]})).json()
    assert chat["tokens"] == [7, 8, 9]
    assert (await scene.post("/tokenize", {})).status_code == 400


async def test_detokenize_gives_texts_and_refuses_what_is_no_id(scene: Scene) -> None:
    assert (await scene.post("/detokenize", {"tokens": [97, 98]})).json() == {"text": "ab"}
    assert (await scene.post("/v1/detokenize", {"tokens": [[97], [98]]})).json() == {"text": ["a", "b"]}
    assert (await scene.post("/detokenize", {"tokens": []})).json() == {"text": ""}
    for wrong in ([-1], ["a"], [1, [2]]):
        assert (await scene.post("/detokenize", {"tokens": wrong})).status_code == 400


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_cache_is_flushed(scene: Scene, method: str) -> None:
    answer = await scene.http.request(method, "/flush_cache", params={"timeout": "0.5"})

    assert answer.status_code == 200
    assert answer.text.startswith("Cache flushed")
    assert (await scene.http.get("/flush_cache", params={"timeout": "x"})).status_code == 400


def _num_tokens(line: str) -> int:
    number: int = json.loads(line.removeprefix("data: "))["meta_info"]["completion_tokens"]
    return number


@pytest.mark.parametrize("given", [None, 7, -1])
async def test_an_answer_tells_the_seed_that_gives_it_again(scene: Scene, given: int | None) -> None:
    sampling = {"max_new_tokens": 2} | ({} if given is None else {"sampling_seed": given})
    meta = (await scene.post("/generate", {"text": "x", "sampling_params": sampling})).json()["meta_info"]
    used = scene.pipeline.jobs[0].sampling.seed
    assert meta["sampling_seed"] % 2**64 == used
    if given is not None:
        assert meta["sampling_seed"] == given
