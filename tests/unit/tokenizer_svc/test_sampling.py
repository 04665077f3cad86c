"""What generation_config.json and the vocabulary say about sampling parameters."""

from typing import Any

import pytest

from tokenizer_svc.errors import RequestError
from tokenizer_svc.sampling import ModelDefaults, check_vocabulary
from wire.sampling import SamplingParams

FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def resolved(config: dict[str, Any], unset: tuple[str, ...] = FIELDS, **given: Any) -> SamplingParams:
    return ModelDefaults.from_generation_config(config).fill(SamplingParams(**given), unset)


def test_unset_fields_come_from_the_model() -> None:
    config = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1, "do_sample": True}
    expected = SamplingParams(temperature=0.7, top_p=0.8, top_k=20, min_p=0.1, repetition_penalty=1.1)
    assert resolved(config) == expected


def test_what_the_client_sent_stays() -> None:
    assert resolved({"temperature": 0.7, "top_k": 20}, ("top_k",), temperature=1.5).temperature == 1.5


def test_an_empty_config_changes_nothing() -> None:
    assert resolved({}) == SamplingParams()


@pytest.mark.parametrize("top_k", [0, None])
def test_top_k_zero_or_null_is_off(top_k: int | None) -> None:
    assert resolved({"top_k": top_k}).top_k == -1


def test_do_sample_false_is_greedy() -> None:
    assert resolved({"do_sample": False, "temperature": 0.7}).temperature == 0


def test_a_client_that_sets_a_temperature_overrides_do_sample_false() -> None:
    assert resolved({"do_sample": False}, ("top_p",), temperature=0.9).temperature == 0.9


@pytest.mark.parametrize("config", [{"top_p": 0}, {"top_p": "high"}, {"temperature": -1}, {"repetition_penalty": 9}])
def test_unusable_values_are_ignored_aloud(config: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    assert resolved(config) == SamplingParams()
    assert next(iter(config)) in caplog.text


def test_fields_that_no_model_sets_are_left_alone() -> None:
    assert resolved({"max_new_tokens": 7}, ("max_new_tokens",), max_new_tokens=128).max_new_tokens == 128


def test_ids_inside_the_vocabulary_pass() -> None:
    check_vocabulary(SamplingParams(logit_bias={0: 1.0, 99: -1.0}, stop_token_ids=(0, 99)), 100)


@pytest.mark.parametrize("token_id", [-1, 100])
def test_bias_outside_the_vocabulary_is_refused(token_id: int) -> None:
    with pytest.raises(RequestError) as caught:
        check_vocabulary(SamplingParams(logit_bias={token_id: 1.0}), 100)
    assert caught.value.message == f"logit_bias must has keys in [0, 99], got {token_id}."


def test_stop_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(RequestError, match=r"stop_token_ids must be in \[0, 99\], got 100\."):
        check_vocabulary(SamplingParams(stop_token_ids=(100,)), 100)
