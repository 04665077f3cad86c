"""From options to processes: how many of each stage, and the command and environment of each."""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from launcher.gpus import placement
from launcher.options import ServeOptions
from launcher.processes import ProcessSpec
from launcher.stages import DETOKENIZER, GATEWAY, TOKENIZER, WORKER, StageProgram
from wire.settings import ENV_PREFIX, CommonSettings, as_environment

_READY_LINE = re.compile(r"\] [A-Za-z]+-[0-9a-f]+ is ready$")
_COMPLETE_LINE = re.compile(r"\] The server is fired up and ready to roll!")


@dataclass(frozen=True, slots=True)
class Instance:
    """One process of a stage to be. `settings` are its own, complete."""

    name: str
    program: StageProgram
    settings: msgspec.Struct
    metrics_port: int
    device_variables: Mapping[str, str]
    inherited_fds: tuple[int, ...] = ()

    def spec(self, common: CommonSettings, environ: Mapping[str, str]) -> ProcessSpec:
        """Command and environment. Our own variables of `environ` are left out: the settings hold what they said."""
        common = msgspec.structs.replace(common, exit_on_stdin_eof=True, metrics_port=self.metrics_port)
        environment = {
            **without_our_variables(environ),
            **as_environment(common),
            **as_environment(self.settings),
            **self.device_variables,
        }
        # -P: a folder of the user's that is called `gateway` must not be taken for ours.
        command = (sys.executable, "-P", "-m", self.program.module)
        return ProcessSpec(self.name, command, environment, self.inherited_fds)

    def is_ready_line(self, line: str) -> bool:
        """Whether the process says with this line that it can work: a gateway, that it has found every other stage."""
        pattern = _COMPLETE_LINE if self.program is GATEWAY else _READY_LINE
        return pattern.search(line) is not None


def without_our_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment less every `MILLRACE_` variable."""
    return {name: value for name, value in environ.items() if not name.startswith(ENV_PREFIX)}


def plan_tiers(options: ServeOptions, listen_fd: int, gpus: list[str]) -> list[list[Instance]]:
    """Every instance, tier by tier in the order of the pipeline. Gateways share the listening socket `listen_fd`."""
    serve = options.serve
    gateway = msgspec.structs.replace(options.gateway, listen_fd=listen_fd)
    worker = _shared(options, gpus)
    counter = _metrics_ports(options.common.metrics_port)

    def tier(program: StageProgram, settings: msgspec.Struct, count: int) -> list[Instance]:
        return [
            Instance(
                name=f"{program.name}-{index}",
                program=program,
                settings=settings,
                metrics_port=counter(),
                device_variables=placement(index, gpus) if program is WORKER else {},
                inherited_fds=(listen_fd,) if program is GATEWAY else (),
            )
            for index in range(count)
        ]

    return [
        tier(GATEWAY, gateway, serve.gateways),
        tier(TOKENIZER, options.tokenizer, serve.tokenizers),
        tier(WORKER, worker, serve.workers),
        tier(DETOKENIZER, options.detokenizer, serve.detokenizers),
    ]


def _shared(options: ServeOptions, gpus: list[str]) -> msgspec.Struct:
    """The worker's settings; workers that share a device divide its memory, unless a share was asked for."""
    num_per_device = -(-options.serve.workers // max(1, len(gpus)))
    if options.is_memory_share_given or num_per_device <= 1:
        return options.worker
    share = options.worker.mem_fraction_static / num_per_device
    return msgspec.structs.replace(options.worker, mem_fraction_static=share)


def _metrics_ports(first: int) -> Callable[[], int]:
    """Consecutive ports, one per instance; 0 stays 0, which is off."""
    num_given = 0

    def take() -> int:
        nonlocal num_given
        num_given += 1
        return first + num_given - 1 if first else 0

    return take
