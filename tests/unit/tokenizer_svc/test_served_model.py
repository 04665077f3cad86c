"""From a job to ids and resolved parameters."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.tokenizer_svc.jobs import chat, job
from tests.unit.tokenizer_svc.models import write_model
from tokenizer_svc.errors import RequestError
from tokenizer_svc.served_model import ServedModel
from tokenizer_svc.settings import TokenizerSettings
from wire.checkpoint import CheckpointError
from wire.columns import count_u32, pack_u32, unpack_u32
from wire.messages import ErrorCode, TextPrompt, TokensPrompt
from wire.sampling import SamplingParams


def refusal(model: ServedModel, **fields: object) -> RequestError:
    with pytest.raises(RequestError) as caught:
        model.prepare(job(**fields))  # type: ignore[arg-type]
    return caught.value


def test_a_chat_has_the_ids_of_its_rendered_text(model: ServedModel) -> None:
    rendered = "<|im_start|>user\nthe capital<|im_end|>\n<|im_start|>assistant\n"
    assert model.encode(chat("the capital")) == model.encode(TextPrompt(rendered), add_special_tokens=False)


def test_a_chat_gets_no_special_tokens_beside_the_templates(tmp_path: Path) -> None:
    model = ServedModel.load(TokenizerSettings(model_path=str(write_model(tmp_path, bos=True))))
    assert unpack_u32(model.encode(TextPrompt("the")))[0] == 0
    assert 0 not in unpack_u32(model.encode(chat("the")))


def test_ids_are_passed_on_as_they_are(model: ServedModel) -> None:
    ids = pack_u32([5, 1, model.vocab_size - 1])
    assert model.prepare(job(prompt=TokensPrompt(ids))).prompt_ids == ids


def test_an_id_outside_the_vocabulary_is_named_with_the_limit(model: ServedModel) -> None:
    error = refusal(model, prompt=TokensPrompt(pack_u32([5, model.vocab_size])))
    assert error.code is ErrorCode.INVALID_REQUEST
    assert error.message == (
        f"Token id {model.vocab_size} is out of vocabulary: ids must be in [0, {model.vocab_size - 1}]."
    )


def test_half_an_id_is_refused(model: ServedModel) -> None:
    assert "got 5" in refusal(model, prompt=TokensPrompt(b"12345")).message


@pytest.mark.parametrize("prompt", [TextPrompt(""), TokensPrompt(b"")])
def test_a_prompt_without_tokens_is_refused(model: ServedModel, prompt: TextPrompt | TokensPrompt) -> None:
    assert refusal(model, prompt=prompt).message == "The prompt is empty: it has no tokens."


def test_no_limit_becomes_the_rest_of_the_context(model: ServedModel) -> None:
    prepared = model.prepare(job(sampling=SamplingParams(max_new_tokens=None)))
    assert prepared.sampling.max_new_tokens == 64 - count_u32(prepared.prompt_ids)


def test_the_models_sampling_is_used_for_unset_fields(model: ServedModel) -> None:
    sampling = model.prepare(job(sampling_from_model=("temperature", "top_p"))).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 1.0, -1)


def test_a_default_limit_is_cut_where_a_chosen_one_is_refused(model: ServedModel) -> None:
    sampling = SamplingParams(max_new_tokens=128)
    prepared = model.prepare(job(sampling=sampling, sampling_from_model=("max_new_tokens",)))
    assert prepared.sampling.max_new_tokens == 64 - count_u32(prepared.prompt_ids)
    assert refusal(model, sampling=sampling).code is ErrorCode.CONTEXT_LENGTH


def test_what_workers_hold_bounds_a_request_as_the_context_does(model: ServedModel) -> None:
    asked = job(sampling=SamplingParams(max_new_tokens=None))
    prepared = model.prepare(asked, longest=20)
    assert prepared.sampling.max_new_tokens == 20 - count_u32(prepared.prompt_ids)
    assert model.prepare(asked, longest=500) == model.prepare(asked)
    with pytest.raises(RequestError, match="maximum context length of 20 tokens"):
        model.prepare(job(sampling=SamplingParams(max_new_tokens=19)), longest=20)


def test_a_too_long_prompt_is_refused_or_truncated(model: ServedModel, model_folder: Path) -> None:
    assert refusal(model, prompt="x " * 100).code is ErrorCode.CONTEXT_LENGTH
    settings = TokenizerSettings(model_path=str(model_folder), allow_auto_truncate=True)
    assert count_u32(ServedModel.load(settings).prepare(job(prompt="x " * 100)).prompt_ids) == 63


def test_bias_outside_the_vocabulary_is_refused(model: ServedModel) -> None:
    assert refusal(model, sampling=SamplingParams(logit_bias={10**6: 1.0})).message.startswith("logit_bias must")


def test_a_resume_is_neither_checked_nor_changed(model: ServedModel) -> None:
    ids = pack_u32([model.vocab_size] * 100)
    sampling = SamplingParams(max_new_tokens=1000)
    fields = {"is_resume": True, "sampling": sampling, "sampling_from_model": ("temperature",)}
    prepared = model.prepare(job(prompt=TokensPrompt(ids), **fields))
    assert prepared.prompt_ids == ids
    assert prepared.sampling == sampling


def test_a_resume_never_brings_text(model: ServedModel) -> None:
    assert refusal(model, is_resume=True).message == "A resume carries its prompt as token ids."


def test_the_context_length_can_be_set(model_folder: Path) -> None:
    assert ServedModel.load(TokenizerSettings(model_path=str(model_folder), context_length=32)).window.length == 32


def test_a_tokenizer_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    model_path = write_model(tmp_path / "model", chat_template=None)
    tokenizer_path = write_model(tmp_path / "tokenizer")
    (tokenizer_path / "config.json").unlink()
    settings = TokenizerSettings(model_path=str(model_path), tokenizer_path=str(tokenizer_path))
    assert ServedModel.load(settings).tokenizer.has_chat_template


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        ServedModel.load(TokenizerSettings(model_path=str(tmp_path)))


def test_the_description_is_what_model_info_needs(model: ServedModel, model_folder: Path) -> None:
    described = model.description(TokenizerSettings(model_path=str(model_folder)))
    assert described == {
        "model_path": str(model_folder),
        "tokenizer_path": str(model_folder),
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "context_length": 64,
        "vocab_size": model.vocab_size,
        "has_chat_template": True,
        "preferred_sampling_params": {"temperature": 0.7, "top_k": 20},
    }


def test_no_torch_is_imported(model_folder: Path) -> None:
    script = f"""
import sys
from tests.unit.tokenizer_svc.jobs import chat, job
from tokenizer_svc.__main__ import main
from tokenizer_svc.served_model import ServedModel
from tokenizer_svc.service import TokenizerService
from tokenizer_svc.settings import TokenizerSettings
model = ServedModel.load(TokenizerSettings(model_path={str(model_folder)!r}))
model.prepare(job(prompt=chat("the capital")))
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
