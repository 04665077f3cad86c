"""One line per request, as uvicorn writes it, and none for those who only look whether we live."""

import pytest

from tests.unit.gateway.conftest import MakeScene


async def test_requests_are_logged_and_probes_are_not(
    make_scene: MakeScene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = await make_scene()
    await scene.post("/generate", {"text": "x"})
    await scene.http.get("/health")
    await scene.http.get("/nowhere")
    lines = [line for line in capsys.readouterr().err.splitlines() if "HTTP/1.1" in line]
    assert [line.partition(" - ")[2] for line in lines] == [
        '"POST /generate HTTP/1.1" 200 OK',
        '"GET /nowhere HTTP/1.1" 404 Not Found',
    ]
