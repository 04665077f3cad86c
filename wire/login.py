"""How to reach the broker and who to be there: users, keys and certificates, from options to the client's arguments."""

import ssl
from pathlib import Path
from typing import Any

import msgspec


class BusOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the broker. `url` may be a comma-separated list; credentials are used where given."""

    url: str
    user: str = ""
    password: str = ""
    password_file: str = ""
    credentials_file: str = ""
    nkey_seed_file: str = ""
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    inbox_prefix: str = "_INBOX"
    connect_timeout_s: float = 30.0
    ping_interval_s: float = 1.0


def login(options: BusOptions) -> dict[str, Any]:
    """What the client needs to log in; raises ConnectionError naming a file that cannot be used."""
    _check_file(options.nkey_seed_file, "SU")
    _check_file(options.credentials_file, "-----BEGIN NATS USER JWT-----")
    given: dict[str, Any] = {
        "user": options.user or None,
        "password": options.password or _first_line(options.password_file) or None,
        "user_credentials": options.credentials_file or None,
        "nkeys_seed": options.nkey_seed_file or None,
        "tls": _tls_context(options),
    }
    return {name: value for name, value in given.items() if value is not None}


def _tls_context(options: BusOptions) -> ssl.SSLContext | None:
    """None for a connection without TLS. The system's authorities, unless one is named."""
    for path in (options.tls_ca_file, options.tls_cert_file, options.tls_key_file):
        _check_file(path, "-----BEGIN ")
    if not (options.tls_ca_file or options.tls_cert_file or "tls://" in options.url):
        return None
    context = ssl.create_default_context(cafile=options.tls_ca_file or None)
    if options.tls_key_file and not options.tls_cert_file:
        raise ConnectionError(f"a private key without a certificate: {options.tls_key_file}")
    if options.tls_cert_file:
        try:
            context.load_cert_chain(options.tls_cert_file, options.tls_key_file or None)
        except ssl.SSLError as error:
            raise ConnectionError(f"no certificate with its key in {options.tls_cert_file}: {error}") from error
    return context


def _first_line(path: str) -> str:
    _check_file(path, "")
    return Path(path).read_text(encoding="utf-8").partition("\n")[0].strip() if path else ""


def _check_file(path: str, beginning: str) -> None:
    """The libraries name neither the file nor what is wrong with it."""
    if not path:
        return
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConnectionError(f"cannot read {path}: {error.strerror}") from error
    if beginning not in text:
        raise ConnectionError(f"{path} does not hold what it should: no {beginning!r} in it")
