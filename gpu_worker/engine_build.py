"""Builds an engine from a checkpoint folder: weights, KV memory, scheduler."""

import gc
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gpu_worker.engine import Engine, Runner
from gpu_worker.engine_options import EngineOptions
from gpu_worker.kv.no_prefix_cache import NoPrefixCache
from gpu_worker.kv.page_pool import PagePool
from gpu_worker.kv.radix_prefix_cache import RadixPrefixCache
from gpu_worker.models.config import load_model_config
from gpu_worker.models.loading import checkpoint_dtype
from gpu_worker.plain_build import build_plain_runner
from gpu_worker.runner_parts import ModelPlan
from gpu_worker.scheduling.admission import AdmissionLimits
from gpu_worker.scheduling.residency import Residency
from gpu_worker.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)


def build_engine(model_path: Path, options: EngineOptions, clock_ns: Callable[[], int] = time.time_ns) -> Engine:
    """Load the checkpoint and allocate the KV cache; the engine is ready for requests.

    Raises `UnsupportedModelError`, `CheckpointError` or `NotEnoughMemoryError`.
    """
    config = load_model_config(model_path)
    device = torch.device(options.device)
    dtype = resolve_dtype(options.dtype, model_path, device)
    plan = ModelPlan(model_path, config, device, dtype, options.context_length or config.context_length)
    # Triton's kernels compute in float32 inside, which float64 is there to avoid.
    is_fast = device.type == "cuda" and dtype is not torch.float64
    runner, num_pages = _build_fast_runner(plan, options) if is_fast else build_plain_runner(plan, options)
    num_kv_tokens = num_pages * options.page_size
    pool = PagePool(num_pages, options.page_size)
    cache = RadixPrefixCache(pool) if options.has_prefix_cache else NoPrefixCache(pool)
    residency = Residency(pool, cache, options.max_running_requests)
    scheduler = Scheduler(
        residency,
        max_running_requests=options.max_running_requests,
        max_prefill_tokens=_max_prefill_tokens(plan, options, num_kv_tokens),
        has_runs=is_fast,
        clock_ns=clock_ns,
    )
    context_length = plan.context_length
    if num_kv_tokens < context_length:
        logger.warning("The KV cache holds %d tokens: sequences end there, not at %d", num_kv_tokens, context_length)
    limits = AdmissionLimits(config.vocab_size, context_length, num_kv_tokens)
    # What is here now stays: the garbage collector need not look at it again, in the middle of a step.
    gc.collect()
    gc.freeze()
    return Engine(scheduler, runner, residency, limits, config.eos_ids, overlaps=is_fast and options.overlaps)


def _max_prefill_tokens(plan: ModelPlan, options: EngineOptions, num_kv_tokens: int) -> int:
    """Without chunks as much as one prompt can be, which is what a GPU's memory was measured with."""
    if options.chunked_prefill_size > 0:
        return options.chunked_prefill_size
    return min(plan.context_length, num_kv_tokens)


def _build_fast_runner(plan: ModelPlan, options: EngineOptions) -> tuple[Runner, int]:
    from gpu_worker.device_build import build_device_runner  # noqa: PLC0415 - imports Triton, which CPUs lack

    return build_device_runner(plan, options)


def resolve_dtype(name: str, model_path: Path, device: torch.device) -> torch.dtype:
    """What a name means here: "auto" is the checkpoint's own on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else checkpoint_dtype(model_path)
    dtypes = {
        "half": torch.float16,
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
        "float": torch.float32,
        "float32": torch.float32,
        "float64": torch.float64,
    }
    if name not in dtypes:
        raise ValueError(f"dtype must be auto or one of {', '.join(dtypes)}, got {name}.")
    return dtypes[name]
