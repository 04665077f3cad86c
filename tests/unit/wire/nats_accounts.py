"""Keys and JWTs as NATS' own tools make them: an operator, an account, and a user with its credentials file."""

import base64
import hashlib
import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys


@dataclass(frozen=True, slots=True)
class Key:
    """An nkey: `seed` is the secret, `public` the name by which the server knows it."""

    seed: bytes
    public: str

    def sign(self, message: bytes) -> bytes:
        """An ed25519 signature."""
        signature: bytes = nkeys.from_seed(bytearray(self.seed)).sign(message)
        return signature


def new_key(prefix: int) -> Key:
    """A fresh key; `prefix` is one of nkeys' PREFIX_BYTE constants."""
    seed = bytes(nkeys.encode_seed(secrets.token_bytes(32), prefix))
    return Key(seed, nkeys.from_seed(bytearray(seed)).public_key.decode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _jwt(issuer: Key, subject: Key, name: str, claims: dict[str, Any]) -> str:
    """Follows NATS' JWT format, version 2: the id is the hash of the claims without it."""
    body = {"iat": int(time.time()), "iss": issuer.public, "name": name, "sub": subject.public}
    body["nats"] = claims | {"version": 2}
    body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    signed = f"{_base64(json.dumps(header).encode())}.{_base64(json.dumps(body).encode())}"
    return f"{signed}.{_base64(issuer.sign(signed.encode()))}"


def write_credentials(path: Path) -> str:
    """Writes a user's credentials file; gives the server's configuration that lets this user in."""
    operator, account, user = map(
        new_key, (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER)
    )
    no_limit = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    account_claims = {"type": "account", "limits": no_limit | {"wildcards": True}}
    user_claims = {"type": "user", "subs": -1, "data": -1, "payload": -1}
    operator_jwt = _jwt(operator, operator, "millrace", {"type": "operator"})
    account_jwt = _jwt(operator, account, "pipeline", account_claims)
    user_jwt = _jwt(account, user, "gateway", user_claims)
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    return f"operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {account.public}: {account_jwt} }}\n"
