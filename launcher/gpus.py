"""Which GPUs there are, without importing torch, and which worker gets which."""

import shutil
import subprocess
from collections.abc import Mapping

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_TIMEOUT_S = 20.0


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` names, else the index of every GPU that nvidia-smi lists; empty without a driver."""
    if _VISIBLE in environ:
        return [device.strip() for device in environ[_VISIBLE].split(",") if device.strip()]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run(  # noqa: S603  # the driver's own program
            [program, "--list-gpus"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return []  # a driver that does not answer is no GPU; the worker itself says more
    return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def placement(worker_index: int, gpus: list[str]) -> dict[str, str]:
    """The variables that put a worker on its GPU, round robin; none if there is at most one GPU to choose from."""
    return {_VISIBLE: gpus[worker_index % len(gpus)]} if len(gpus) > 1 else {}
