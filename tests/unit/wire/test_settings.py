"""One declaration gives flag, variable, help and check, and a typo is never a default."""

from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from detokenizer_svc.settings import DetokenizerSettings
from gateway.settings import GatewaySettings
from gpu_worker.settings import WorkerSettings
from tokenizer_svc.settings import TokenizerSettings
from wire.settings import CommonSettings, as_environment, build, load_settings, public_values


class MillSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Mill: an example."""

    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on")] = 30000
    ratio: Annotated[float, Meta(gt=0, lt=1, description="A share, in 100 % at most")] = 0.5
    max_waiting: Annotated[int, Meta(ge=1, description="Limit; none if unset")] | None = None
    name: Annotated[str | None, Meta(description="A name", extra={"aliases": ["--title"]})] = None
    key: Annotated[str, Meta(description="A key", extra={"secret": True})] = ""
    stones: Annotated[tuple[int, ...], Meta(description="Sizes")] = (1, 2)
    mode: Annotated[Literal["fine", "coarse"], Meta(description="How to grind")] = "fine"
    is_wet: Annotated[bool, Meta(description="Runs on water")] = False


def load(*argv: str, **environ: str) -> MillSettings:
    (settings,) = load_settings("mill", MillSettings, argv=argv, environ=environ)
    assert isinstance(settings, MillSettings)
    return settings


def usage_error(capsys: pytest.CaptureFixture[str], *argv: str, **environ: str) -> str:
    with pytest.raises(SystemExit) as caught:
        load(*argv, **environ)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_nothing_given_means_the_defaults() -> None:
    assert load() == MillSettings()


def test_a_flag_beats_a_variable_and_a_variable_beats_the_default() -> None:
    assert load(MILLRACE_PORT="1").port == 1
    assert load("--port", "2", MILLRACE_PORT="1").port == 2


def test_a_flag_of_the_default_value_beats_a_variable() -> None:
    assert load("--port", "30000", MILLRACE_PORT="1").port == 30000


def test_every_kind_of_value_comes_from_flags() -> None:
    given = load(
        *("--ratio", "0.25", "--max-waiting", "7", "--title", "5", "--key", "k", "--stones", "3", "4"),
        *("--mode", "coarse", "--is-wet"),
    )
    assert given == MillSettings(
        ratio=0.25, max_waiting=7, name="5", key="k", stones=(3, 4), mode="coarse", is_wet=True
    )


def test_every_kind_of_value_comes_from_variables() -> None:
    given = load(
        MILLRACE_RATIO="0.25",
        MILLRACE_MAX_WAITING="7",
        MILLRACE_NAME="5",
        MILLRACE_KEY="k",
        MILLRACE_STONES="3,4",
        MILLRACE_MODE="coarse",
        MILLRACE_IS_WET="true",
    )
    assert given == MillSettings(
        ratio=0.25, max_waiting=7, name="5", key="k", stones=(3, 4), mode="coarse", is_wet=True
    )


def test_a_switch_can_be_turned_off_against_its_variable() -> None:
    assert not load("--no-is-wet", MILLRACE_IS_WET="true").is_wet


@pytest.mark.parametrize("value", ["65536", "-1", "many", "1.5"])
def test_a_bad_number_is_an_error_with_flag_variable_and_value(capsys: pytest.CaptureFixture[str], value: str) -> None:
    for shown in (usage_error(capsys, f"--port={value}"), usage_error(capsys, MILLRACE_PORT=value)):
        assert "--port (or MILLRACE_PORT)" in shown
        assert value in shown


def test_a_limit_stands_in_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert "<= 65535" in usage_error(capsys, "--port", "65536")
    assert ">= 1" in usage_error(capsys, "--max-waiting", "0")
    assert "< 1.0" in usage_error(capsys, MILLRACE_RATIO="1")


def test_a_variable_outside_the_choices_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert "MILLRACE_MODE" in usage_error(capsys, MILLRACE_MODE="medium")


def test_a_variable_that_nobody_knows_is_an_error_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    shown = usage_error(capsys, MILLRACE_PROT="1")
    assert "unknown environment variable MILLRACE_PROT; did you mean MILLRACE_PORT?" in shown


def test_variables_of_others_are_not_our_concern() -> None:
    assert load(PORT="1", HOME="/") == MillSettings()


def test_an_abbreviated_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unrecognized arguments" in usage_error(capsys, "--por", "1")


def test_help_lists_every_setting_with_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load("--help")
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Port to listen on [MILLRACE_PORT, default 30000]" in shown
    assert "A share, in 100 % at most [MILLRACE_RATIO, default 0.5]" in shown
    for field in msgspec.structs.fields(MillSettings):
        assert f"MILLRACE_{field.name.upper()}" in shown


def test_secrets_are_neither_in_the_help_nor_in_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("--help", MILLRACE_KEY="sesame")
    assert "sesame" not in capsys.readouterr().out
    assert "key" not in public_values(load(MILLRACE_KEY="sesame"))
    assert public_values(load())["port"] == 30000


def test_the_environment_of_a_child_makes_it_load_the_same() -> None:
    settings = MillSettings(port=1, ratio=0.1, max_waiting=3, name="a b,c", key="k", stones=(9,), mode="coarse")
    assert build(MillSettings, {}, as_environment(settings)) == settings


@pytest.mark.parametrize(
    "kind", [CommonSettings, GatewaySettings, TokenizerSettings, WorkerSettings, DetokenizerSettings]
)
def test_the_defaults_of_every_stage_survive_the_way_through_the_environment(kind: type[msgspec.Struct]) -> None:
    assert build(kind, {}, as_environment(kind())) == kind()


def test_a_field_that_two_kinds_share_is_one_flag() -> None:
    gateway, worker = load_settings(
        "millrace", GatewaySettings, WorkerSettings, argv=["--model-path", "m", "--port", "1"], environ={}
    )
    assert (gateway.model_path, worker.model_path) == ("m", "m")


def test_the_model_path_names_the_model_unless_told_otherwise() -> None:
    assert GatewaySettings(model_path="a/b").model_name == "a/b"
    assert GatewaySettings(model_path="a/b", served_model_name="c").model_name == "c"


def test_an_address_is_shown_without_its_user_and_password() -> None:
    settings = CommonSettings(nats_url="nats://ann:sesame@a:4222,nats://token@b:4222,nats://c:4222")
    assert public_values(settings)["nats_url"] == "nats://***@a:4222,nats://***@b:4222,nats://c:4222"
