"""How a bus proves who it is and with whom it speaks: TLS, client certificates, nkeys, credentials files."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nkeys
import pytest
import trustme
from prometheus_client import CollectorRegistry

from tests.unit.wire.broker import Broker
from tests.unit.wire.nats_accounts import new_key, write_credentials
from wire.bus import Bus
from wire.login import BusOptions
from wire.messages import Describe, Description
from wire.metrics import BusMetrics

StartBroker = Callable[[str], str]


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[StartBroker]:
    """Starts a broker with this tail of a configuration; gives its URL."""
    brokers = []

    def start(extra_config: str) -> str:
        broker = Broker(tmp_path, extra_config)
        brokers.append(broker)
        broker.start()
        return broker.url

    yield start
    for broker in brokers:
        broker.stop()


async def connect(**options: str | float) -> Bus:
    """A bus that gives up soon."""
    return await Bus.connect(
        BusOptions(**{"connect_timeout_s": 3.0} | options),  # type: ignore[arg-type]
        "test",
        BusMetrics(CollectorRegistry()),
    )


async def assert_works(bus: Bus) -> None:
    """A question gets its answer; then the bus is closed."""
    await bus.subscribe("test.login", lambda _, delivery: _answer(bus, delivery.reply_to))
    assert await bus.request("test.login", Describe(), 10) == Description(settings={"port": 1})
    await bus.close()


async def _answer(bus: Bus, reply_to: str) -> None:
    await bus.publish(reply_to, Description(settings={"port": 1}))


# ---- TLS --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of one authority: its own certificate, and a server's and a client's with their keys."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> "Certificates":
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        for name, certificate in (
            ("server", authority.issue_cert("127.0.0.1")),
            ("client", authority.issue_cert("gateway@millrace")),
        ):
            certificate.private_key_pem.write_to_path(folder / f"{name}.key")
            certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        return cls(folder)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def tls_block(self, *more: str) -> str:
        lines = (f'cert_file: "{self.path("server.pem")}"', f'key_file: "{self.path("server.key")}"', *more)
        return "tls {\n" + "\n".join(lines) + "\n}\n"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.made(tmp_path)


async def test_a_bus_speaks_tls_with_a_server_that_it_can_verify(
    start_broker: StartBroker, certificates: Certificates
) -> None:
    url = start_broker(certificates.tls_block())
    await assert_works(await connect(url=url, tls_ca_file=certificates.path("ca.pem")))


async def test_a_server_of_another_authority_is_refused(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path
) -> None:
    url = start_broker(certificates.tls_block())
    (tmp_path / "other").mkdir()
    other = Certificates.made(tmp_path / "other")
    with pytest.raises(ConnectionError, match="certificate verify failed"):
        await connect(url=url, tls_ca_file=other.path("ca.pem"))


async def test_a_server_of_another_name_is_refused(start_broker: StartBroker, certificates: Certificates) -> None:
    url = start_broker(certificates.tls_block()).replace("127.0.0.1", "localhost")
    with pytest.raises(ConnectionError, match="certificate is not valid for 'localhost'"):
        await connect(url=url, tls_ca_file=certificates.path("ca.pem"))


async def test_the_systems_authorities_count_when_the_address_says_tls(
    start_broker: StartBroker, certificates: Certificates
) -> None:
    url = start_broker(certificates.tls_block()).replace("nats://", "tls://")
    with pytest.raises(ConnectionError, match="certificate verify failed"):
        await connect(url=url)


async def test_a_client_certificate_is_shown_to_a_server_that_asks_for_one(
    start_broker: StartBroker, certificates: Certificates
) -> None:
    url = start_broker(certificates.tls_block(f'ca_file: "{certificates.path("ca.pem")}"', "verify: true"))
    ca_file = certificates.path("ca.pem")
    own = {"tls_cert_file": certificates.path("client.pem"), "tls_key_file": certificates.path("client.key")}
    await assert_works(await connect(url=url, tls_ca_file=ca_file, **own))
    with pytest.raises(ConnectionError):
        await connect(url=url, tls_ca_file=ca_file, connect_timeout_s=1.0)


async def test_a_key_without_its_certificate_is_refused(certificates: Certificates) -> None:
    with pytest.raises(ConnectionError, match="a private key without a certificate"):
        await connect(
            url="nats://127.0.0.1:1",
            tls_ca_file=certificates.path("ca.pem"),
            tls_key_file=certificates.path("client.key"),
        )


async def test_no_password_is_sent_to_a_server_that_offers_no_tls(certificates: Certificates) -> None:
    """Whoever poses as the broker would else read it."""
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        impostor = threading.Thread(target=_pose_as_a_broker, args=(listener, heard))
        impostor.start()
        with pytest.raises(ConnectionError, match="TLS was asked for"):
            await connect(
                url=f"nats://127.0.0.1:{listener.getsockname()[1]}",
                user="gateway",
                password="sesame",
                tls_ca_file=certificates.path("ca.pem"),
                connect_timeout_s=1.0,
            )
        listener.shutdown(socket.SHUT_RDWR)
        impostor.join()
    assert heard == b""


def _pose_as_a_broker(listener: socket.socket, heard: bytearray) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576,"headers":true}\r\n')
            heard += connection.recv(4096)


# ---- nkeys and credentials ----------------------------------------------------------------------------------------


async def test_a_bus_logs_in_with_an_nkey_seed(start_broker: StartBroker, tmp_path: Path) -> None:
    key, stranger = (new_key(nkeys.PREFIX_BYTE_USER) for _ in range(2))
    url = start_broker(f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}\n")
    (tmp_path / "own.nk").write_bytes(key.seed + b"\n")
    (tmp_path / "stranger.nk").write_bytes(stranger.seed)
    await assert_works(await connect(url=url, nkey_seed_file=str(tmp_path / "own.nk")))
    with pytest.raises(ConnectionError, match=r"(?i)authorization"):
        await connect(url=url, nkey_seed_file=str(tmp_path / "stranger.nk"), connect_timeout_s=1.0)


async def test_a_bus_logs_in_with_a_credentials_file(start_broker: StartBroker, tmp_path: Path) -> None:
    url = start_broker(write_credentials(tmp_path / "own.creds"))
    write_credentials(tmp_path / "stranger.creds")
    await assert_works(await connect(url=url, credentials_file=str(tmp_path / "own.creds")))
    with pytest.raises(ConnectionError, match=r"(?i)authorization"):
        await connect(url=url, credentials_file=str(tmp_path / "stranger.creds"), connect_timeout_s=1.0)


@pytest.mark.parametrize("option", ["tls_ca_file", "tls_cert_file", "nkey_seed_file", "credentials_file"])
async def test_a_file_that_is_not_there_is_named(option: str) -> None:
    with pytest.raises(ConnectionError, match="nowhere"):
        await connect(url="nats://127.0.0.1:1", **{option: "/nowhere/to.be"})


@pytest.mark.parametrize("option", ["tls_ca_file", "tls_cert_file", "nkey_seed_file", "credentials_file"])
async def test_a_file_that_holds_something_else_is_named_and_not_quoted(option: str, tmp_path: Path) -> None:
    (tmp_path / "odd").write_text("not-what-is-needed\n")
    with pytest.raises(ConnectionError, match="odd") as caught:
        await connect(url="nats://127.0.0.1:1", **{option: str(tmp_path / "odd")})
    assert "not-what-is-needed" not in str(caught.value)


# ---- passwords ----------------------------------------------------------------------------------------------------


async def test_a_bus_logs_in_with_the_first_line_of_a_password_file(start_broker: StartBroker, tmp_path: Path) -> None:
    url = start_broker('authorization { user: "miller", password: "sesame" }\n')
    file = tmp_path / "password"
    file.write_text("sesame\n# the miller's\n")
    await assert_works(await connect(url=url, user="miller", password_file=str(file)))
