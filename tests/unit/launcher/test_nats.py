"""The embedded server is found, configured, and seen to be ready."""

import subprocess

from nats.aio.client import Client

from launcher.nats import ReadyDetector, config_text, find_nats_server


def test_the_binary_of_the_wheel_is_found_and_runs() -> None:
    shown = subprocess.run([find_nats_server(), "--version"], check=True, capture_output=True, text=True)
    assert shown.stdout.startswith("nats-server: v2.")


def test_the_port_is_known_once_the_server_says_ready() -> None:
    ready = ReadyDetector()
    assert not ready.feed("[7] [INF] Listening for client connections on 127.0.0.1:39425")
    assert ready.port is None
    assert ready.feed("[7] [INF] Server is ready")
    assert ready.port == 39425


def test_the_password_stands_in_the_configuration_only_if_there_is_one() -> None:
    assert "authorization" not in config_text()
    assert 'password: "sesame"' in config_text(4222, "millrace", "sesame")


async def test_a_started_server_takes_messages_of_eight_megabytes(nats_url: str) -> None:
    client = Client()
    await client.connect(nats_url)
    assert client.max_payload == 8 * 2**20
    await client.close()
