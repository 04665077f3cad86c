"""The keys that clients may show, from the settings and from a file. Knows no HTTP."""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path


class ApiKeyFileError(Exception):
    """The file of keys cannot be used; the message says which and why."""


class ApiKeys:
    """Zero keys let everybody in. Keeps digests only, of one length, so that a comparison tells nothing of a key."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    @classmethod
    def read(cls, key: str, path: str) -> "ApiKeys":
        """`key` and those of the file, where given; raises `ApiKeyFileError`."""
        return cls(([key] if key else []) + (_keys_of(Path(path)) if path else []))

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for."""
        return not self._digests

    def accepts(self, authorization: bytes) -> bool:
        """Whether an `Authorization` header holds one of the keys; compares with all of them, whichever matches."""
        scheme, _, given = authorization.partition(b" ")
        digest = _digest(given.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _keys_of(path: Path) -> list[str]:
    """One key per line; blank lines and lines that begin with # are none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ApiKeyFileError(f"--api-key-file: cannot read {path}: {reason}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ApiKeyFileError(f"--api-key-file: no key in {path}")  # else an empty file would open the door
    return keys
