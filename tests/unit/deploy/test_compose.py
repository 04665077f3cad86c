"""compose.yaml, the Dockerfile and the code must agree; that they run is seen by running them."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from detokenizer_svc.settings import DetokenizerSettings
from gateway.settings import GatewaySettings
from gpu_worker.settings import WorkerSettings
from tokenizer_svc.settings import TokenizerSettings
from wire.settings import ENV_PREFIX, CommonSettings, build, refuse_unknown_variables

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS: dict[str, type[msgspec.Struct]] = {
    "gateway": GatewaySettings,
    "tokenizer": TokenizerSettings,
    "gpu-worker": WorkerSettings,
    "detokenizer": DetokenizerSettings,
}
NOT_PASSED_ON = {
    "listen_fd": "the launcher's",
    "exit_on_stdin_eof": "the launcher's",
    "nats_password": "a stage has its password from a file",
    "nats_nkey_seed_file": "the broker of compose.yaml has users with passwords",
    "nats_credentials_file": "the broker of compose.yaml has users with passwords",
    "nats_tls_ca_file": "the network of the broker is the containers' own",
    "nats_tls_cert_file": "the network of the broker is the containers' own",
    "nats_tls_key_file": "the network of the broker is the containers' own",
}
ONCE = "passwords"
OURS = {name: service for name, service in SERVICES.items() if "profiles" not in service}


def image_environment(target: str) -> dict[str, str]:
    """The MILLRACE_ variables that the image sets itself: its own stage's, over those of every stage."""
    parts = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)
    relevant = [part for part in parts if part.split("\n")[0].endswith((" AS stage", f" AS {target}"))]
    assert len(relevant) == 2
    return dict(re.findall(rf"({ENV_PREFIX}\w+)=(\S+)", "\n".join(relevant)))


def given_to(stage: str) -> dict[str, Any]:
    return {**image_environment(stage), **SERVICES[stage]["environment"]}


def refuse(message: str) -> None:
    pytest.fail(message)


@pytest.mark.parametrize("stage", SETTINGS)
def test_every_variable_given_to_a_stage_is_one_of_its_settings(stage: str) -> None:
    refuse_unknown_variables(given_to(stage), (CommonSettings, SETTINGS[stage]), refuse)


@pytest.mark.parametrize("stage", SETTINGS)
def test_every_setting_of_a_stage_can_be_set_from_outside_or_has_a_reason(stage: str) -> None:
    names = {field.name for kind in (CommonSettings, SETTINGS[stage]) for field in msgspec.structs.fields(kind)}
    given = {name.removeprefix(ENV_PREFIX).lower() for name in given_to(stage)}
    assert names - given == names & set(NOT_PASSED_ON)


@pytest.mark.parametrize("stage", SETTINGS)
def test_the_image_alone_gives_valid_settings(stage: str) -> None:
    environment = image_environment(stage)
    assert build(CommonSettings, {}, environment).metrics_port == 9100
    build(SETTINGS[stage], {}, environment)


@pytest.mark.parametrize("stage", SETTINGS)
def test_every_stage_is_built_from_its_own_target(stage: str) -> None:
    assert SERVICES[stage]["build"]["target"] == stage
    assert f"\nFROM stage AS {stage}\n" in DOCKERFILE


@pytest.mark.parametrize("name", OURS)
def test_every_container_is_restarted_watched_and_unprivileged(name: str) -> None:
    service = OURS[name]
    assert service["restart"] == ("no" if name == ONCE else "unless-stopped")
    assert service["init"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert name == ONCE or "build" in service or "healthcheck" in service  # the image of a stage brings its own
    assert name == ONCE or service["networks"]


@pytest.mark.parametrize("name", OURS)
def test_a_container_is_given_longer_to_stop_than_a_stage_drains(name: str) -> None:
    seconds = re.fullmatch(r"\$\{STOP_GRACE_PERIOD:-(\d+)s\}", OURS[name]["stop_grace_period"])
    assert seconds is not None
    assert int(seconds[1]) > CommonSettings().drain_timeout


def test_only_the_balancer_can_be_reached_from_outside() -> None:
    assert [name for name, service in OURS.items() if "ports" in service] == ["haproxy"]


def test_the_balancer_cannot_reach_the_broker() -> None:
    assert not set(SERVICES["haproxy"]["networks"]) & set(SERVICES["nats"]["networks"])


def test_no_secret_is_written_down() -> None:
    """A value that is written here is one that everybody knows."""
    given = {
        (service, name): value
        for service, body in SERVICES.items()
        for name, value in body.get("environment", {}).items()
        if re.search(r"(KEY|PASSWORD|TOKEN)$", name)
    }
    assert given
    assert set(given.values()) == {None}


@pytest.mark.parametrize("stage", SETTINGS)
def test_every_stage_has_a_user_of_its_own_at_the_broker(stage: str) -> None:
    service = SERVICES[stage]
    user = stage.removeprefix("gpu-")
    assert service["environment"]["MILLRACE_NATS_USER"] == user
    (mounted,) = [volume for volume in service["volumes"] if volume.startswith("password")]
    assert mounted == f"password-{user}:{Path(service['environment']['MILLRACE_NATS_PASSWORD_FILE']).parent}:ro"
    assert f"password-{user}:/secrets/{user}" in SERVICES["passwords"]["volumes"]


def test_prometheus_looks_for_every_stage() -> None:
    jobs = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    found = {job["job_name"]: job["dns_sd_configs"][0] for job in jobs if "dns_sd_configs" in job}
    assert {name: (entry["names"], entry["port"]) for name, entry in found.items()} == {
        stage: ([stage], 9100) for stage in SETTINGS
    }
