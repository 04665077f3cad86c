"""Encoding, decoding and chat templates."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tokenizer_svc.models import SPECIAL_TOKENS, write_model
from tokenizer_svc.errors import RequestError
from tokenizer_svc.text_tokenizer import TextTokenizer
from wire.checkpoint import CheckpointError
from wire.columns import unpack_u32
from wire.messages import ChatPrompt, ErrorCode

_plain_text = st.text().filter(lambda text: not any(token in text for token in SPECIAL_TOKENS))
USER = {"role": "user", "content": "the capital"}


@pytest.fixture(scope="module")
def tokenizer(model_folder: Path) -> TextTokenizer:
    return TextTokenizer.load(model_folder)


def render(tokenizer: TextTokenizer, *messages: dict[str, Any], **options: Any) -> str:
    return tokenizer.render(ChatPrompt(messages=list(messages), **options))


def refusal(tokenizer: TextTokenizer, *messages: Any, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        render(tokenizer, *messages, **options)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    return caught.value.message


@settings(deadline=None)  # the machine may be busy with other tests
@given(text=_plain_text)
def test_any_text_survives_the_round_trip(tokenizer: TextTokenizer, text: str) -> None:
    ids = unpack_u32(tokenizer.encode(text, add_special_tokens=True))
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_a_text_gets_the_special_tokens_that_the_tokenizer_adds(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.load(write_model(tmp_path, bos=True))
    with_special = unpack_u32(tokenizer.encode("the capital", add_special_tokens=True)).tolist()
    without = unpack_u32(tokenizer.encode("the capital", add_special_tokens=False)).tolist()
    assert with_special == [0, *without]


def test_truncation_of_the_training_does_not_cut_prompts(tmp_path: Path) -> None:
    file = write_model(tmp_path) / "tokenizer.json"
    content = json.loads(file.read_text())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(content))
    tokenizer = TextTokenizer.load(tmp_path)
    assert len(unpack_u32(tokenizer.encode("x" * 50, add_special_tokens=True))) > 4


def test_special_tokens_are_skipped_when_decoding_on_request(tokenizer: TextTokenizer) -> None:
    ids = unpack_u32(tokenizer.encode("the<|im_end|>", add_special_tokens=False))
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "the<|im_end|>"


def test_a_chat_is_written_by_the_template(tokenizer: TextTokenizer) -> None:
    assert render(tokenizer, USER) == "<|im_start|>user\nthe capital<|im_end|>\n<|im_start|>assistant\n"


def test_the_generation_prompt_can_be_left_out(tokenizer: TextTokenizer) -> None:
    assert render(tokenizer, USER, add_generation_prompt=False) == "<|im_start|>user\nthe capital<|im_end|>\n"


def test_text_parts_are_joined_by_a_space(tokenizer: TextTokenizer) -> None:
    parts = [{"type": "text", "text": "the"}, {"type": "text", "text": "capital"}]
    assert render(tokenizer, {"role": "user", "content": parts}) == render(tokenizer, USER)


def test_a_message_without_content_is_empty(tokenizer: TextTokenizer) -> None:
    text = render(tokenizer, {"role": "assistant", "content": None}, add_generation_prompt=False)
    assert text == "<|im_start|>assistant\n<|im_end|>\n"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], "'image_url'"),
        ([{"text": "no type"}], "None"),
        ([7], "None"),
        ([{"type": "text", "text": 7}], "int"),
        (7, "int"),
    ],
)
def test_other_content_is_refused_by_name(tokenizer: TextTokenizer, content: Any, named: str) -> None:
    assert named in refusal(tokenizer, {"role": "user", "content": content})


def test_the_final_message_can_be_continued(tokenizer: TextTokenizer) -> None:
    text = render(tokenizer, USER, {"role": "assistant", "content": "It is"}, continue_final_message=True)
    assert text.endswith("<|im_start|>assistant\nIt is")


def test_template_kwargs_reach_the_template(tokenizer: TextTokenizer) -> None:
    assert render(tokenizer, USER, template_kwargs={"enable_thinking": False}).endswith("<no-think>")


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "messages", "conversation", "self", "tools"])
def test_template_kwargs_cannot_replace_what_the_server_decides(tokenizer: TextTokenizer, name: str) -> None:
    assert name in refusal(tokenizer, USER, template_kwargs={name: "x"})


def test_tools_reach_the_template(tokenizer: TextTokenizer) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    assert '"name": "weather"' in render(tokenizer, USER, tools=[tool])


def test_arguments_of_a_tool_call_are_parsed_for_the_template(tokenizer: TextTokenizer) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    assert "weatherOslo<|im_end|>" in render(tokenizer, USER, {"role": "assistant", "tool_calls": [call]})


def test_arguments_that_are_not_json_are_refused(tokenizer: TextTokenizer) -> None:
    call = {"function": {"name": "weather", "arguments": "{"}}
    assert "'weather' are not JSON" in refusal(tokenizer, {"role": "assistant", "tool_calls": [call]})


def test_an_exception_of_the_template_reaches_the_client(tokenizer: TextTokenizer) -> None:
    assert "There is no role critic." in refusal(tokenizer, {"role": "critic", "content": "bad"})


def test_a_failing_template_is_the_clients_error_and_short(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.load(write_model(tmp_path, chat_template="{{ messages[0].content + 5 }}"))
    message = refusal(tokenizer, {"role": "user", "content": "x" * 10_000})
    assert message.startswith("The chat template refuses this request: ")
    assert len(message) < 1000


def test_a_template_cannot_leave_its_sandbox(tmp_path: Path) -> None:
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    tokenizer = TextTokenizer.load(write_model(tmp_path, chat_template=escape))
    assert "unsafe" in refusal(tokenizer, USER)


def test_no_messages_are_refused(tokenizer: TextTokenizer) -> None:
    assert refusal(tokenizer) == "Messages cannot be empty."


def test_a_chat_needs_a_template(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.load(write_model(tmp_path, chat_template=None))
    assert not tokenizer.has_chat_template
    assert "no chat template" in refusal(tokenizer, USER)


def test_a_template_file_wins_over_the_tokenizers_own(model_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages[0].content }}!")
    assert render(TextTokenizer.load(model_folder, str(file)), USER) == "the capital!"


def test_a_missing_template_file_is_named(model_folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"--chat-template: nowhere\.jinja"):
        TextTokenizer.load(model_folder, "nowhere.jinja")


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json"):
        TextTokenizer.load(tmp_path)


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        TextTokenizer.load(tmp_path)
