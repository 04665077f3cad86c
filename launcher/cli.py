"""The `millrace` command: which subcommand, and what it needs. Imports a subcommand only when it is asked for."""

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence

from launcher.stages import STAGES, MissingExtraError, StageProgram

_USAGE = """\
usage: millrace COMMAND [flags]

Serves large language models as a pipeline of processes over NATS.

  serve [MODEL]  start NATS and every stage on this machine, with the built-in demo model if none is named
  chat           talk to a server in the terminal
{stages}
Every command explains its flags with --help. Each flag is also an environment variable.
millrace --version prints the version.
"""
_COMMANDS = {"serve": "launcher.serve", "chat": "launcher.chat"}
_USAGE_ERROR = 2


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs one subcommand; its exit status. A stage's replaces this process and never returns."""
    command, *rest = argv or ["--help"]
    stages = {program.name: program for program in STAGES}
    if command in _COMMANDS:
        return _run_module(_COMMANDS[command], rest, environ)
    if command in stages:
        return _become(stages[command], rest)
    if command in ("--version", "version"):
        print(f"millrace {importlib.metadata.version('millrace')}")
        return 0
    if command in ("--help", "-h", "help"):
        print(_usage(), end="")
        return 0
    print(f"millrace: no command {command!r}\n\n{_usage()}", end="", file=sys.stderr)
    return _USAGE_ERROR


def _usage() -> str:
    lines = (f"  {program.name:<14} start one {program.name}\n" for program in STAGES)
    return _USAGE.format(stages="".join(lines))


def _run_module(module: str, argv: Sequence[str], environ: Mapping[str, str]) -> int:
    try:
        main = importlib.import_module(module).main
    except ModuleNotFoundError as error:
        print(f"millrace: {error.name} is not installed: pip install 'millrace[launcher]'", file=sys.stderr)
        return 1
    return int(main(argv, environ))


def _become(program: StageProgram, argv: Sequence[str]) -> int:
    try:
        program.require_installed()
    except MissingExtraError as error:
        print(f"millrace: {error}", file=sys.stderr)
        return 1
    return os.execv(sys.executable, [sys.executable, "-P", "-m", program.module, *argv])  # noqa: S606  # no shell wanted
