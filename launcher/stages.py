"""The four stages as programs: module, settings, and what must be installed. Imports nothing else of them."""

import importlib.util
from dataclasses import dataclass

import msgspec

from detokenizer_svc.settings import DetokenizerSettings
from gateway.settings import GatewaySettings
from gpu_worker.settings import WorkerSettings
from tokenizer_svc.settings import TokenizerSettings


class MissingExtraError(Exception):
    """A stage cannot run here; the message says what to install."""


@dataclass(frozen=True, slots=True)
class StageProgram:
    """One stage. `name` is both its subcommand and its extra; `needs` are the packages of that extra it cannot miss."""

    name: str
    module: str
    settings: type[msgspec.Struct]
    needs: tuple[str, ...]

    def require_installed(self) -> None:
        """Raises `MissingExtraError` if a package is not there; imports none, since torch takes seconds."""
        missing = [package for package in self.needs if importlib.util.find_spec(package) is None]
        if missing:
            raise MissingExtraError(f"the {self.name} needs {', '.join(missing)}: pip install 'millrace[{self.name}]'")


GATEWAY = StageProgram("gateway", "gateway", GatewaySettings, ("litestar", "uvicorn"))
TOKENIZER = StageProgram("tokenizer", "tokenizer_svc", TokenizerSettings, ("transformers", "tokenizers", "jinja2"))
WORKER = StageProgram("worker", "gpu_worker", WorkerSettings, ("torch", "numpy", "safetensors"))
DETOKENIZER = StageProgram("detokenizer", "detokenizer_svc", DetokenizerSettings, ("tokenizers",))

# In the order of the pipeline, which is also the order in which they stop.
STAGES = (GATEWAY, TOKENIZER, WORKER, DETOKENIZER)
