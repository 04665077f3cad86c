"""What clients give, what the pipeline gets: defaults, ranges, refusals."""

import pytest

from gateway.errors import RequestError, body_of, from_code
from gateway.sampling import build_sampling
from gateway.schemas.native import UNSUPPORTED_SAMPLING, NativeSampling
from gateway.schemas.unsupported import refuse_unsupported
from wire.messages import ErrorCode
from wire.sampling import SamplingParams


def built(given: NativeSampling) -> SamplingParams:
    """As `/generate` does it where no limit is given."""
    return build_sampling(given, max_new_tokens=128, min_new_tokens=given.min_new_tokens, seed=given.sampling_seed)


def test_nothing_given_means_the_defaults() -> None:
    assert built(NativeSampling(sampling_seed=7)) == SamplingParams(max_new_tokens=128, seed=7)


def test_a_tiny_temperature_is_greedy() -> None:
    assert built(NativeSampling(temperature=1e-7)).temperature == 0.0
    assert built(NativeSampling(temperature=1e-5)).temperature == 1e-5


def test_all_of_the_vocabulary_is_no_top_k() -> None:
    assert built(NativeSampling(top_k=2**30)).top_k == -1
    assert built(NativeSampling(top_k=-1)).top_k == -1
    assert built(NativeSampling(top_k=40)).top_k == 40


def test_one_stop_is_a_list_of_one_and_empty_ones_stop_nothing() -> None:
    assert built(NativeSampling(stop="END")).stop == ("END",)
    assert built(NativeSampling(stop=["", "A"])).stop == ("A",)


def test_nulls_among_stop_token_ids_are_dropped() -> None:
    assert built(NativeSampling(stop_token_ids=[1, None, 2])).stop_token_ids == (1, 2)


def test_bias_has_integer_keys() -> None:
    assert built(NativeSampling(logit_bias={"12": -1.5})).logit_bias == {12: -1.5}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (NativeSampling(temperature=float("inf")), "temperature must be a non-negative finite number, got inf."),
        (NativeSampling(top_p=1.5), "top_p must be in (0, 1], got 1.5."),
        (NativeSampling(frequency_penalty=-3), "frequency_penalty must be in [-2, 2], got -3."),
        (NativeSampling(presence_penalty=2.5), "presence_penalty must be in [-2, 2], got 2.5."),
        (NativeSampling(min_new_tokens=-1), "min_new_tokens must be in [0, max_new_tokens(128)], got -1."),
        (NativeSampling(logit_bias={"-1": 1.0}), "logit_bias must has keys in [0, V-1], got -1."),
        (NativeSampling(stop_token_ids=[-3]), "stop_token_ids must be token ids, got -3."),
        (
            NativeSampling(logit_bias=dict.fromkeys(map(str, range(4097)), 1.0)),
            "logit_bias must have at most 4096 ids, got 4097.",
        ),
        (NativeSampling(stop_token_ids=[1] * 4097), "stop_token_ids must have at most 4096 ids, got 4097."),
        (NativeSampling(n=129), "n must be at most 128, got 129."),
    ],
)
def test_a_value_out_of_range_is_refused_with_limit_and_value(given: NativeSampling, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        built(given)
    assert caught.value.status == 400
    assert caught.value.message == message


def test_every_unsupported_parameter_has_a_neutral_value_and_is_else_refused_by_name() -> None:
    refuse_unsupported(NativeSampling(regex="", beam_width=1, watermark={}), UNSUPPORTED_SAMPLING)
    for name in UNSUPPORTED_SAMPLING:
        given = NativeSampling()
        setattr(given, name, "x")
        with pytest.raises(RequestError, match=f"{name} is not supported"):
            refuse_unsupported(given, UNSUPPORTED_SAMPLING)


def test_false_and_zero_are_different_neutral_values() -> None:
    with pytest.raises(RequestError):
        refuse_unsupported(NativeSampling(beam_width=True), UNSUPPORTED_SAMPLING)


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_code_has_a_status_and_a_body_of_both_shapes(code: ErrorCode) -> None:
    error = from_code(code, "why")
    body = body_of(error)

    assert error.status in (400, 413, 429, 500, 503)
    assert body["code"] == error.status
    assert body["message"] == body["error"]["message"] == "why"
    assert body["error"]["code"] == code.value
