"""Command lines written for SGLang or vLLM: what their other flags mean here.

Three kinds: another name for one of our settings; a flag without a counterpart, which cannot change an answer and is
ignored with a warning; a flag that asks for something that Millrace does not do, which is refused.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_VLLM_NAMES = {
    "--max-model-len": "context_length",
    "--max-num-seqs": "max_running_requests",
    "--max-num-queued-reqs": "max_queued_requests",
    "--max-num-batched-tokens": "chunked_prefill_size",
    "--gpu-memory-utilization": "mem_fraction_static",
    "--block-size": "page_size",
    "--tokenizer": "tokenizer_path",
    "--shutdown-timeout": "drain_timeout",
}


@dataclass(frozen=True, slots=True)
class ForeignFlag:
    """A flag that is not ours. `values` is how many follow it, in argparse's words (0 for a switch).

    `harmless` are the values that ask for nothing; None means that every value does, and () that none does.
    """

    flags: str
    because: str
    values: int | str = 1
    harmless: tuple[str, ...] | None = None


_ONE_GPU = "a worker runs on one GPU; --workers adds workers"
_FIXED_KERNELS = "there is one set of kernels"
_OWN_LOGS = "prompts and answers are never logged; --trace-console, traces and metrics show the way of a request"

FOREIGN_FLAGS = (
    ForeignFlag("--trust-remote-code", "code that comes with a model is never run", 0),
    ForeignFlag("--attention-backend --prefill-attention-backend --decode-attention-backend", _FIXED_KERNELS),
    ForeignFlag("--sampling-backend --mm-attention-backend", _FIXED_KERNELS),
    ForeignFlag("--random-seed --seed", "every request has a seed of its own: `seed`, on /generate `sampling_seed`"),
    ForeignFlag("--schedule-policy", "the order is first come, first served"),
    ForeignFlag("--schedule-conservativeness", "the scheduler preempts instead of guessing"),
    ForeignFlag("--max-prefill-tokens", "the budget of a step is --chunked-prefill-size"),
    ForeignFlag("--enable-mixed-chunk", "a step mixes prefill and decode anyway", 0),
    ForeignFlag("--enable-torch-compile", _FIXED_KERNELS, 0),
    ForeignFlag("--torch-compile-max-bs", _FIXED_KERNELS),
    ForeignFlag("--cuda-graph-bs", "the sizes are chosen, up to --cuda-graph-max-bs", "+"),
    ForeignFlag("--watchdog-timeout", "see --step-timeout"),
    ForeignFlag("--skip-server-warmup", "the worker is ready once it says so", 0),
    ForeignFlag("--log-requests --enable-log-requests", _OWN_LOGS, 0),
    ForeignFlag("--log-requests-level --log-requests-format --uvicorn-log-level --log-level-http", _OWN_LOGS),
    ForeignFlag("--enable-trace", "tracing is on when --otlp-traces-endpoint is given", 0),
    ForeignFlag("--trace-modules", "every hop is traced"),
    ForeignFlag("--grammar-backend", "there is no constrained decoding yet"),
    ForeignFlag("--enable-prefix-caching --enable-chunked-prefill --enable-prompt-tokens-details", "always on", 0),
    ForeignFlag("--tp-size --tensor-parallel-size --tp --ep-size", _ONE_GPU, harmless=("1",)),
    ForeignFlag("--pp-size --pipeline-parallel-size --nnodes", _ONE_GPU, harmless=("1",)),
    ForeignFlag("--node-rank", _ONE_GPU, harmless=("0",)),
    ForeignFlag("--kv-cache-dtype", "the KV cache has the model's precision", harmless=("auto",)),
    ForeignFlag("--disaggregation-mode", "prefill and decode share a worker", harmless=("null",)),
    ForeignFlag("--quantization", "quantized checkpoints are not supported", harmless=()),
    ForeignFlag("--torchao-config", "quantization is not supported", harmless=()),
    ForeignFlag("--enable-lora", "LoRA adapters are not supported", 0, harmless=()),
    ForeignFlag("--lora-paths --lora-modules", "LoRA adapters are not supported", "+", harmless=()),
    ForeignFlag("--speculative-algorithm --speculative-config", "there is no speculative decoding", harmless=()),
    ForeignFlag("--tool-call-parser --reasoning-parser", "answers are not parsed", harmless=()),
    ForeignFlag("--enable-auto-tool-choice", "answers are not parsed", 0, harmless=()),
    ForeignFlag("--admin-api-key", "every key may do everything: --api-key, --api-key-file", harmless=()),
    ForeignFlag("--ssl-keyfile --ssl-certfile", "put a proxy that ends TLS in front", harmless=()),
    ForeignFlag("--is-embedding --enable-multimodal --skip-tokenizer-init", "text generation only", 0, harmless=()),
    ForeignFlag("--enable-deterministic-inference", "kernels are not batch-invariant", 0, harmless=()),
    ForeignFlag("--json-model-override-args --hf-overrides", "a model is served as its config.json says", harmless=()),
)


def add_vllm_names(parser: argparse.ArgumentParser) -> None:
    """Other names of our settings; not shown in the help, which names each setting once."""
    for flag, name in _VLLM_NAMES.items():
        parser.add_argument(flag, dest=name, help=argparse.SUPPRESS)


def add_foreign_flags(parser: argparse.ArgumentParser) -> None:
    """Takes or refuses the flags without a counterpart; those taken are described in `ignored_flags`."""
    for foreign in FOREIGN_FLAGS:
        parser.add_argument(
            *foreign.flags.split(),
            dest="ignored_flags",
            nargs=foreign.values if foreign.values != 1 else None,
            action=_Foreign,
            const=foreign,
            help=argparse.SUPPRESS,
        )


class _Foreign(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        foreign: ForeignFlag = self.const
        given = [values] if isinstance(values, str) else list(values or ())
        shown = " ".join([option_string or self.option_strings[0], *given])
        if foreign.harmless is not None and not (given and set(given) <= set(foreign.harmless)):
            alternatives = f" (only {' or '.join(foreign.harmless)})" if foreign.harmless else ""
            parser.error(f"{shown} is not supported{alternatives}: {foreign.because}")
        ignored: list[str] = getattr(namespace, self.dest, [])
        setattr(namespace, self.dest, [*ignored, f"{shown} is ignored: {foreign.because}"])
