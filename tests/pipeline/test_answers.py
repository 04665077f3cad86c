"""What the answers hold: equal to transformers, and with n, batches, logprobs, stop strings and usage as asked."""

import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.pipeline.streams import Stream
from tests.pipeline.system import System
from wire.checkpoint import resolve
from wire.messages import Stage

PROMPTS = (
    "The capital of France is",
    "The",
    "<|im_start|>user\nList 3 countries and their capitals.<|im_end|>\n<|im_start|>assistant\n",
    "Grüße an 世界 und 😀, " * 20,
    "x" * 300,
)
GREEDY = {"temperature": 0, "max_new_tokens": 24}
_nonces = itertools.count()


def generate(system: System, prompt: Any, sampling: dict[str, Any], **fields: Any) -> Any:
    body = {"text": prompt, "sampling_params": sampling} | fields
    response = requests.post(f"{system.url}/generate", json=body, timeout=120)
    assert response.status_code == 200, response.text
    return response.json()


def fresh_prompt(num_words: int) -> str:
    """A prompt that no other test has put into the prefix cache."""
    return f"{next(_nonces)} fresh words: " + "north south " * num_words


@pytest.fixture(scope="module")
def reference() -> Iterator[tuple[Any, Any]]:
    """The same weights in transformers, in float32."""
    path = resolve("demo").path
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    torch.set_num_threads(before)


def test_a_batch_of_mixed_prompts_is_generated_as_transformers_does(system: System, reference: Any) -> None:
    tokenizer, model = reference
    answers = generate(system, list(PROMPTS), GREEDY | {"ignore_eos": True}, return_prompt_token_ids=True)
    assert len(answers) == len(PROMPTS)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        assert answer["prompt_token_ids"] == ids[0].tolist()
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, eos_token_id=-1
        )[0, ids.shape[1] :]
        assert answer["output_ids"] == expected.tolist()
        assert answer["text"] == tokenizer.decode(expected, skip_special_tokens=True)


def test_token_ids_as_prompt_give_what_their_text_gives(system: System, reference: Any) -> None:
    tokenizer, _ = reference
    ids = tokenizer(PROMPTS[0]).input_ids
    body = {"input_ids": ids, "sampling_params": GREEDY}
    by_ids = requests.post(f"{system.url}/generate", json=body, timeout=120).json()
    assert by_ids["output_ids"] == generate(system, PROMPTS[0], GREEDY)["output_ids"]


def test_a_chat_is_rendered_by_the_models_template(client: openai.Client, system: System, reference: Any) -> None:
    tokenizer, _ = reference
    messages = [{"role": "user", "content": "Who are you?"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    chat = client.chat.completions.create(model="demo", messages=messages, temperature=0, max_tokens=24)  # type: ignore[arg-type]
    assert chat.choices[0].message.content == generate(system, prompt, GREEDY)["text"]
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == len(tokenizer(prompt).input_ids)


def test_a_list_of_one_is_answered_by_a_list(system: System) -> None:
    (answer,) = generate(system, ["The capital of France is"], GREEDY)
    assert answer == generate(system, "The capital of France is", GREEDY) | {"meta_info": answer["meta_info"]}


def test_several_samples_differ_and_the_first_equals_a_single_one(system: System) -> None:
    sampling = {"temperature": 20.0, "max_new_tokens": 16, "sampling_seed": 7, "ignore_eos": True}
    several = generate(system, "Once upon a time", sampling | {"n": 3})
    single = generate(system, "Once upon a time", sampling)
    assert len({tuple(answer["output_ids"]) for answer in several}) == 3
    assert several[0]["output_ids"] == single["output_ids"]


def test_the_same_seed_gives_the_same_again(system: System) -> None:
    sampling = {"temperature": 20.0, "max_new_tokens": 16, "n": 2, "ignore_eos": True}
    ids = [
        [answer["output_ids"] for answer in generate(system, "Once", sampling | {"sampling_seed": seed})]
        for seed in (1, 1, 2)
    ]
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]


def test_n_choices_of_the_openai_client_streamed_and_not(client: openai.Client) -> None:
    messages: Any = [{"role": "user", "content": "Tell me something."}]
    common: Any = {"model": "demo", "messages": messages, "n": 2, "seed": 11, "temperature": 2.0, "max_tokens": 12}
    whole = client.chat.completions.create(**common)
    streamed = {0: "", 1: ""}
    for chunk in client.chat.completions.create(**common, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == {choice.index: choice.message.content for choice in whole.choices}


def test_a_streamed_batch_names_the_prompt_of_every_event(system: System) -> None:
    body: dict[str, Any] = {"text": list(PROMPTS[:2]), "sampling_params": GREEDY | {"ignore_eos": True}, "stream": True}
    with requests.post(f"{system.url}/generate", json=body, stream=True, timeout=120) as response:
        lines = [line.decode().removeprefix("data: ") for line in response.iter_lines() if line]
    last = {event["index"]: event for event in map(json.loads, lines[:-1])}
    whole = generate(system, list(PROMPTS[:2]), GREEDY | {"ignore_eos": True})
    assert lines[-1] == "[DONE]"
    assert [last[index]["text"] for index in (0, 1)] == [answer["text"] for answer in whole]


def test_logprobs_of_generate_are_those_of_transformers(system: System, reference: Any) -> None:
    tokenizer, model = reference
    answer = generate(system, PROMPTS[0], GREEDY, return_logprob=True, top_logprobs_num=2, return_text_in_logprobs=True)
    meta, output_ids = answer["meta_info"], answer["output_ids"]
    ids = torch.tensor([tokenizer(PROMPTS[0]).input_ids + output_ids])
    with torch.no_grad():
        expected = model(ids).logits[0, -len(output_ids) - 1 : -1].float().log_softmax(-1)
    assert len(meta["output_token_logprobs"]) == len(output_ids)
    for row, (logprob, token_id, text), top in zip(
        expected, meta["output_token_logprobs"], meta["output_top_logprobs"], strict=True
    ):
        assert math.isclose(logprob, row[token_id], abs_tol=1e-3)
        assert text == tokenizer.decode([token_id])
        assert top[0][1] == token_id
        assert [pair[1] for pair in top] == row.topk(2).indices.tolist()


def test_logprobs_of_a_chat_name_every_token(client: openai.Client) -> None:
    chat = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=24,
        logprobs=True,
        top_logprobs=3,
    )
    (choice,) = chat.choices
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    content = choice.message.content
    assert content is not None
    assert "".join(entry.token for entry in choice.logprobs.content).startswith(content)
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token
        assert entry.logprob <= 0


def test_logprobs_of_a_completion(client: openai.Client) -> None:
    completion = client.completions.create(
        model="demo", prompt="The capital of France is", temperature=0, max_tokens=4, logprobs=2
    )
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert completion.usage is not None
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == completion.usage.completion_tokens
    assert "".join(logprobs.tokens).startswith(completion.choices[0].text)


def test_a_stop_string_ends_the_text_before_it(system: System) -> None:
    whole = generate(system, PROMPTS[0], GREEDY | {"ignore_eos": True})["text"]
    stop = whole[7:10]
    stopped = generate(system, PROMPTS[0], GREEDY | {"ignore_eos": True, "stop": [stop]})
    assert stopped["text"] == whole[: whole.index(stop)]
    assert stopped["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert stopped["meta_info"]["completion_tokens"] == len(stopped["output_ids"]) < 24
    kept = generate(system, PROMPTS[0], GREEDY | {"ignore_eos": True, "stop": [stop], "no_stop_trim": True})
    assert kept["text"].startswith(whole[: whole.index(stop)] + stop)


def test_a_stream_never_shows_what_a_stop_string_takes_back(system: System) -> None:
    whole = generate(system, PROMPTS[0], GREEDY | {"ignore_eos": True})["text"]
    stop = whole[7:15]
    stream = Stream(system.url, {"text": PROMPTS[0], "sampling_params": GREEDY | {"ignore_eos": True, "stop": stop}})
    assert stream.result()["text"] == whole[: whole.index(stop)]


def test_a_stop_token_ends_the_output(system: System) -> None:
    ids = generate(system, PROMPTS[0], GREEDY | {"ignore_eos": True})["output_ids"]
    stop = ids[5]
    answer = generate(system, PROMPTS[0], GREEDY | {"ignore_eos": True, "stop_token_ids": [stop]})
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert answer["output_ids"] == ids[: ids.index(stop) + 1]


def test_usage_counts_the_prompt_once_and_reports_cached_tokens_on_the_second_ask(client: openai.Client) -> None:
    ask: Any = {
        "model": "demo",
        "messages": [{"role": "user", "content": fresh_prompt(50)}],
        "max_tokens": 4,
        "n": 2,
        "extra_body": {"ignore_eos": True},
    }
    first, second = (client.chat.completions.create(**ask).usage for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.prompt_tokens == second.prompt_tokens > 50
    assert first.completion_tokens == second.completion_tokens == 8
    assert first.prompt_tokens_details is not None
    assert second.prompt_tokens_details is not None
    assert first.prompt_tokens_details.cached_tokens == 0
    assert second.prompt_tokens_details.cached_tokens == (second.prompt_tokens - 1) // 16 * 16


def test_a_stream_ends_with_its_usage_if_asked(client: openai.Client) -> None:
    *chunks, last = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks)


def test_tokenize_and_detokenize_are_inverse(system: System, reference: Any) -> None:
    tokenizer, _ = reference
    text = "Grüße an 世界 😀"
    tokens = requests.post(f"{system.url}/tokenize", json={"prompt": text}, timeout=60).json()
    assert tokens["tokens"] == tokenizer(text).input_ids
    assert tokens["count"] == len(tokens["tokens"])
    back = requests.post(f"{system.url}/detokenize", json={"tokens": tokens["tokens"]}, timeout=60).json()
    assert back == {"text": text}


def test_a_flushed_cache_forgets_the_prompts(system: System) -> None:
    prompt = fresh_prompt(50)
    generate(system, prompt, GREEDY)
    assert generate(system, prompt, GREEDY)["meta_info"]["cached_tokens"] > 0
    assert requests.post(f"{system.url}/flush_cache?timeout=20", timeout=60).status_code == 200
    assert generate(system, prompt, GREEDY)["meta_info"]["cached_tokens"] == 0


def test_the_model_says_what_it_is(system: System, client: openai.Client) -> None:
    info = requests.get(f"{system.url}/model_info", timeout=60).json()
    assert info["architectures"] == ["Qwen2ForCausalLM"]
    assert info["is_generation"]
    assert requests.get(f"{system.url}/get_model_info", timeout=60).json() == info
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"


def test_nothing_is_held_after_all_this_and_the_prefixes_are_kept(system: System) -> None:
    generate(system, fresh_prompt(50), GREEDY)
    system.at_rest()
    (worker,) = requests.get(f"{system.url}/server_info", timeout=60).json()["internal_states"]
    assert worker["num_used_pages"] == 0
    assert worker["num_cached_pages"] > 0


def test_an_answer_that_goes_on_at_another_worker_is_still_the_models_own(system: System, reference: Any) -> None:
    """In float32 other company rounds otherwise, so logits are compared and no ids. That nothing of what was delivered
    has changed is what `result` asserts."""
    tokenizer, model = reference
    num_tokens = 96
    prompts = [f"{number}: {PROMPTS[number % 2]}" for number in range(8)]
    sampling = GREEDY | {"max_new_tokens": num_tokens, "ignore_eos": True}
    old = system.one(Stage.WORKER)
    system.start({Stage.WORKER: 1})
    streams = [Stream(system.url, {"text": prompt, "sampling_params": sampling}) for prompt in prompts]
    for stream in streams:
        stream.wait_for_tokens(10)
    old.process.popen.kill()
    results = [stream.result() for stream in streams]
    assert system.metrics("millrace_gateway_repairs_total")['{cause="worker_lost",stage="worker"}'] >= 1
    for prompt, result in zip(prompts, results, strict=True):
        output_ids = torch.tensor(result["output_ids"])
        ids = torch.cat([torch.tensor(tokenizer(prompt).input_ids), output_ids])
        with torch.no_grad():
            logits = model(ids[None]).logits[0, -num_tokens - 1 : -1]
        chosen = logits.gather(1, output_ids[:, None])[:, 0]
        assert (logits.max(dim=1).values - chosen).max() < 1e-3
    system.wait_until_known()
