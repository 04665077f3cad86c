"""Who is let in: one key, several from a file, or everybody."""

import subprocess
from pathlib import Path

import pytest

from gateway.http.api_keys import ApiKeyFileError, ApiKeys
from gateway.http.app import _HANDLERS
from tests.pipeline.process import environment, python_module
from tests.unit.gateway.conftest import MakeScene

FILE = """\
# the first team
first-key

  second-key
# retired-key
schlüssel
"""


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "keys"
    path.write_text(FILE, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("key", ["own-key", "first-key", "second-key", "schlüssel"])
def test_every_key_of_the_file_and_the_setting_opens(key_file: str, key: str) -> None:
    assert ApiKeys.read("own-key", key_file).accepts(f"Bearer {key}".encode())


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer retired-key",
        "Bearer # retired-key",
        "Bearer first-ke",
        "Bearer first-keyy",
        "Bearer FIRST-KEY",
        "Bearer first-key second-key",
        "Bearer\tfirst-key",
        "Basic first-key",
        "first-key",
        "Bearer \udcff",
    ],
)
def test_nothing_else_opens(key_file: str, header: str) -> None:
    assert not ApiKeys.read("", key_file).accepts(header.encode("utf-8", "surrogateescape"))


def test_the_schemes_case_does_not_matter() -> None:
    assert ApiKeys(["k"]).accepts(b"bearer k")


def test_without_a_key_everybody_is_let_in() -> None:
    assert ApiKeys.read("", "").is_open


def test_the_keys_themselves_are_not_kept() -> None:
    assert "sesame" not in repr(vars(ApiKeys(["sesame"])))


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n"])
def test_a_file_without_a_key_does_not_open_the_door(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys").write_text(content)
    with pytest.raises(ApiKeyFileError, match="no key in"):
        ApiKeys.read("", str(tmp_path / "keys"))


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_a_file_that_cannot_be_read_stops_the_gateway_with_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe")
    ended = subprocess.run(
        python_module("gateway"), env=environment({}, api_key_file=path), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"millrace gateway: error: --api-key-file: cannot read {path}")


async def test_every_route_but_those_of_probes_asks_for_a_key(make_scene: MakeScene, key_file: str) -> None:
    scene = await make_scene(api_key="own-key", api_key_file=key_file)
    routes = [(method, path) for handler in _HANDLERS for path in handler.paths for method in handler.http_methods]
    asked, open_to_all = set(), set()
    for method, path in routes:
        response = await scene.http.request(method, path.replace("{model_id:path}", "x"))
        (asked if response.status_code == 401 else open_to_all).add(path)
        if response.status_code == 401 and method != "HEAD":
            assert response.json() == {"error": "Unauthorized"}
            assert response.headers["www-authenticate"] == "Bearer"
    assert open_to_all == {"/health", "/health_generate", "/ready", "/metrics"}
    assert {"/generate", "/v1/chat/completions", "/v1/models", "/server_info", "/docs", "/openapi.json"} <= asked


@pytest.mark.parametrize("key", ["own-key", "second-key", "schlüssel"])
async def test_each_key_generates(make_scene: MakeScene, key_file: str, key: str) -> None:
    scene = await make_scene(api_key="own-key", api_key_file=key_file)
    body = {"text": "Hello", "sampling_params": {"max_new_tokens": 2}}
    answered = await scene.post("/generate", body, headers={"Authorization": f"Bearer {key}".encode()})
    assert answered.status_code == 200
    assert (await scene.post("/generate", body)).status_code == 401
