"""The OpenAI routes with the real client."""

import json
from itertools import pairwise
from typing import Any

import openai
import pytest

from tests.unit.gateway.conftest import Scene
from tests.unit.gateway.scripted import CACHED_TOKENS, text_of
from wire.messages import ChatPrompt, TextPrompt

CHAT: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


async def test_a_chat_is_answered_whole(scene: Scene) -> None:
    answer = await scene.openai.chat.completions.create(**CHAT)

    assert answer.choices[0].message.content == text_of(4)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 4, 7)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == CACHED_TOKENS
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "any"


async def test_a_chat_streams_role_content_finish_usage_and_done_in_this_order(scene: Scene) -> None:
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    *events, done = await scene.post_stream("/v1/chat/completions", body)
    chunks = [json.loads(event) for event in events]

    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "reasoning_content": None}
    deltas = [chunk["choices"][0]["delta"]["content"] for chunk in chunks[1:-2]]
    assert "".join(deltas) == text_of(4)
    assert chunks[-2]["choices"][0]["delta"] == {}
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}


async def test_the_openai_client_reads_the_stream(scene: Scene) -> None:
    stream = await scene.openai.chat.completions.create(**CHAT, stream=True)

    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert text == text_of(4)


async def test_continuous_usage_is_on_every_chunk_and_never_falls(scene: Scene) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = CHAT | {"stream": True, "stream_options": options}
    events = await scene.post_stream("/v1/chat/completions", body)

    counts = [json.loads(event)["usage"]["completion_tokens"] for event in events[:-1]]

    assert counts[-1] == 4
    assert all(earlier <= later for earlier, later in pairwise(counts))


async def test_continuous_usage_counts_what_the_stream_has_told_so_far(scene: Scene) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *events, _ = await scene.post_stream("/v1/chat/completions", CHAT | {"stream": True, "stream_options": options})
    num_told = 0

    for event in map(json.loads, events):
        content = event["choices"][0]["delta"].get("content", "") if event["choices"] else ""
        num_told += content.count(" ")  # every scripted token is one word
        assert event["usage"]["completion_tokens"] == num_told
    assert num_told == 4


async def test_a_stream_without_the_option_has_no_usage(scene: Scene) -> None:
    events = await scene.post_stream("/v1/chat/completions", CHAT | {"stream": True})

    assert all("usage" not in json.loads(event) for event in events[:-1])


async def test_n_choices_stream_with_their_own_index_and_finish_after_all_text(scene: Scene) -> None:
    stream = await scene.openai.chat.completions.create(**CHAT, n=2, stream=True)
    texts, finishes = ["", ""], []
    async for chunk in stream:
        choice = chunk.choices[0]
        assert not finishes or choice.finish_reason
        texts[choice.index] += choice.delta.content or ""
        finishes += [choice.index] if choice.finish_reason else []

    assert texts == [text_of(4)] * 2
    assert finishes == [0, 1]


async def test_logprobs_of_a_chat_have_bytes_and_alternatives(scene: Scene) -> None:
    answer = await scene.openai.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2)

    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [token.token for token in logprobs.content] == ["w0 ", "w1 ", "w2 ", "w3 "]
    assert [token.logprob for token in logprobs.content] == [0, -1, -2, -3]
    assert bytes(logprobs.content[1].bytes or []) == b"w1 "
    assert [top.token for top in logprobs.content[1].top_logprobs] == ["w1 ", "w2 "]


async def test_the_logprobs_of_a_stream_are_all_there(scene: Scene) -> None:
    stream = await scene.openai.chat.completions.create(**CHAT, logprobs=True, stream=True)

    parts = [chunk.choices[0].logprobs async for chunk in stream]

    tokens = [token.token for part in parts if part for token in part.content or []]
    assert tokens == ["w0 ", "w1 ", "w2 ", "w3 "]


async def test_a_batch_of_completions_is_in_order_of_prompts_then_choices(scene: Scene) -> None:
    answer = await scene.openai.completions.create(model="any", prompt=["one", "three"], max_tokens=3, n=2)

    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("one") + len("three")
    assert answer.usage.completion_tokens == 12


async def test_a_completion_stream_has_the_finish_reason_on_its_last_text(scene: Scene) -> None:
    stream = await scene.openai.completions.create(model="any", prompt="one", max_tokens=3, stream=True)
    chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].text for chunk in chunks) == text_of(3)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].choices[0].text


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_puts_the_prompt_before_the_answer(scene: Scene, stream: bool) -> None:
    for prompt in ("abc", [97, 98, 99]):
        keywords: dict[str, Any] = {"model": "any", "prompt": prompt, "max_tokens": 2, "echo": True}
        if stream:
            chunks = await scene.openai.completions.create(**keywords, stream=True)
            text = "".join([chunk.choices[0].text async for chunk in chunks])
        else:
            text = (await scene.openai.completions.create(**keywords)).choices[0].text
        assert text == "abc" + text_of(2)


async def test_logprobs_of_a_completion_have_real_offsets(scene: Scene) -> None:
    answer = await scene.openai.completions.create(model="any", prompt="one", max_tokens=3, logprobs=0)

    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.text_offset == [0, 3, 6]
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[1] == {"w1 ": -1.0}


async def test_content_parts_become_one_text_and_other_parts_are_refused(scene: Scene) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    await scene.post("/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": parts}]})
    prompt = scene.pipeline.jobs[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[0]["content"] == "one two"

    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    refused = await scene.post("/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": image}]})
    assert refused.status_code == 400
    assert "image_url" in refused.json()["message"]
    refused = await scene.post(
        "/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": [{"type": "text"}]}]}
    )
    assert refused.json()["message"] == "A content part of type text must have its text as a string."


async def test_tools_reach_the_template_unless_the_choice_is_none(scene: Scene) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for choice, expected in (("auto", [tool]), ("none", None)):
        await scene.post("/v1/chat/completions", CHAT | {"tools": [tool], "tool_choice": choice})
        prompt = scene.pipeline.jobs[-1].prompt
        assert isinstance(prompt, ChatPrompt)
        assert prompt.tools == expected


async def test_what_a_chat_leaves_unset_is_left_to_the_model(scene: Scene) -> None:
    await scene.post("/v1/chat/completions", CHAT | {"temperature": 0.5})
    assert scene.pipeline.jobs[-1].sampling_from_model == ("top_p", "top_k", "min_p", "repetition_penalty")
    assert scene.pipeline.jobs[-1].sampling.temperature == 0.5

    await scene.post("/v1/completions", {"prompt": "x"})
    assert scene.pipeline.jobs[-1].sampling_from_model == ("max_new_tokens",)
    assert scene.pipeline.jobs[-1].sampling.max_new_tokens == 16
    assert scene.pipeline.jobs[-1].prompt == TextPrompt("x")


@pytest.mark.parametrize(("extra", "is_cut"), [({}, True), ({"max_tokens": None}, True), ({"max_tokens": 16}, False)])
async def test_only_the_default_limit_of_a_completion_may_be_cut(
    scene: Scene, extra: dict[str, Any], is_cut: bool
) -> None:
    await scene.post("/v1/completions", {"prompt": "x"} | extra)

    job = scene.pipeline.jobs[-1]
    assert job.sampling.max_new_tokens == 16
    assert job.sampling_from_model == (("max_new_tokens",) if is_cut else ())


async def test_a_given_rid_is_the_id(scene: Scene) -> None:
    answer = await scene.post("/v1/chat/completions", CHAT | {"rid": "mine"})

    assert answer.json()["id"] == "mine"
    assert answer.headers["x-request-id"] == "mine"
    assert scene.pipeline.jobs[-1].request_id == "mine"


async def test_models_are_listed_and_found_by_ids_with_slashes(scene: Scene) -> None:
    listed = await scene.openai.models.list()
    model = listed.data[0]

    assert (await scene.openai.models.retrieve(model.id)).id == model.id
    with pytest.raises(openai.NotFoundError) as caught:
        await scene.openai.models.retrieve("no/such")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"messages": []}, "Messages cannot be empty."),
        ({"temperature": -1}, "temperature must be a non-negative finite number, got -1.0."),
        ({"top_p": 0}, "top_p must be in (0, 1], got 0.0."),
        ({"n": 0}, "n must be at least 1, got 0."),
        ({"max_tokens": -1}, "max_new_tokens must be at least 0, got -1."),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs must be in [0, 20], got 21."),
        ({"tool_choice": "required"}, "Tools cannot be empty if tool choice is set to required."),
        ({"tool_choice": {"function": {"name": "x"}}}, "Tool 'x' not found in tools list."),
        ({"response_format": {"type": "json_object"}}, "response_format json_object is not supported."),
        ({"regex": "a*"}, "regex is not supported."),
        ({"return_token_ids": True}, "return_token_ids is not supported."),
        ({"logit_bias": {"x": 1}}, "logit_bias must has keys in [0, V-1], got x."),
        ({"stop": ["s"] * 33}, "at most 32 stop strings are allowed, got 33"),
    ],
)
async def test_a_bad_chat_is_a_400_that_says_why(scene: Scene, extra: dict[str, Any], message: str) -> None:
    answer = await scene.post("/v1/chat/completions", CHAT | extra)

    assert answer.status_code == 400
    body = answer.json()
    assert body["object"] == "error"
    assert body["code"] == 400
    assert body["message"] == body["error"]["message"] == message
    assert scene.pipeline.jobs == []


async def test_the_openai_client_raises_its_own_error_for_a_bad_request(scene: Scene) -> None:
    with pytest.raises(openai.BadRequestError, match="top_p must be in"):
        await scene.openai.chat.completions.create(**CHAT, top_p=2)


async def test_another_content_type_is_refused(scene: Scene) -> None:
    answer = await scene.http.post("/v1/chat/completions", content=json.dumps(CHAT))

    assert answer.status_code == 400
    assert "application/json" in answer.json()["message"]


@pytest.mark.parametrize(
    ("extra", "name"),
    [({"best_of": 2}, "best_of"), ({"suffix": "x"}, "suffix"), ({"echo": True, "logprobs": 1}, "echo")],
)
async def test_what_completions_do_not_have_is_refused_by_name(scene: Scene, extra: dict[str, Any], name: str) -> None:
    answer = await scene.post("/v1/completions", {"prompt": "x"} | extra)

    assert answer.status_code == 400
    assert name in answer.json()["message"]


async def test_numbers_that_no_message_can_carry_are_a_400(scene: Scene) -> None:
    for extra in ({"chat_template_kwargs": {"x": 10**30}}, {"logit_bias": {"9" * 5000: 1}}, {"seed": 10**30}):
        assert (await scene.post("/v1/chat/completions", CHAT | extra)).status_code == 400


async def test_a_rid_cannot_break_the_header_that_repeats_it(scene: Scene) -> None:
    answer = await scene.post("/v1/chat/completions", CHAT | {"rid": "a\r\nb: ü"})

    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "a??b:???"
