"""The broker of deploy/nats.conf, on free ports, with passwords of this run."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import nats_server_of
from wire.messages import Stage

NATS_CONF = Path(__file__).parents[3] / "deploy" / "nats.conf"


@dataclass(frozen=True, slots=True)
class SecuredBroker:
    """Where it listens, and the password of each stage's user, who is called as the stage is."""

    url: str
    passwords: dict[Stage, str]

    def url_of(self, stage: Stage) -> str:
        """An address that holds the stage's user and password."""
        return self.url.replace("//", f"//{stage.value}:{self.passwords[stage]}@")


def new_passwords() -> dict[Stage, str]:
    """One per stage, as deploy/make-secrets.sh makes them."""
    return {stage: f"p{secrets.token_hex(24)}" for stage in Stage}


@contextmanager
def running_secured_broker() -> Iterator[SecuredBroker]:
    """Ends with the block."""
    passwords = new_passwords()
    variables = {f"NATS_{stage.name}_PASSWORD": password for stage, password in passwords.items()}
    anywhere = ("--addr", "127.0.0.1", "--port", "-1", "--http_port", "-1")
    with nats_server_of(NATS_CONF, *anywhere, environ=variables) as url:
        yield SecuredBroker(url, passwords)
