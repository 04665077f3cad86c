"""Builds an engine from a checkpoint folder: weights, KV memory, scheduler."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from gpu_worker.engine import Engine
from gpu_worker.execution.kv_memory import allocate_kv, bytes_per_page, free_device_bytes, pages_that_fit
from gpu_worker.execution.model_runner import ModelRunner
from gpu_worker.kernels.kernels import TorchKernels
from gpu_worker.kv.no_prefix_cache import NoPrefixCache
from gpu_worker.kv.page_pool import PagePool
from gpu_worker.kv.radix_prefix_cache import RadixPrefixCache
from gpu_worker.models.config import ModelConfig, load_model_config
from gpu_worker.models.loading import checkpoint_dtype, load_decoder
from gpu_worker.scheduling.admission import AdmissionLimits
from gpu_worker.scheduling.residency import Residency
from gpu_worker.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an operator may choose.

    `dtype` "auto" is the checkpoint's on a GPU and float32 on a CPU. The KV cache holds `max_total_tokens` if given;
    else a GPU is filled up to `mem_fraction`, and a CPU gives `cpu_kv_bytes`, but never more than all running
    sequences can use. `chunked_prefill_size` -1 puts no limit on the prefill tokens of a step. `num_threads` is
    for a CPU; None takes half the cores, since the pipeline's other processes need theirs.
    """

    device: str = "cpu"
    dtype: str = "auto"
    context_length: int | None = None
    page_size: int = 16
    max_running_requests: int = 256
    chunked_prefill_size: int = 8192
    max_total_tokens: int | None = None
    mem_fraction: float = 0.85
    cpu_kv_bytes: int = 1 << 30
    has_prefix_cache: bool = True
    num_threads: int | None = None


def build_engine(model_path: Path, options: EngineOptions, clock_ns: Callable[[], int] = time.time_ns) -> Engine:
    """Load the checkpoint and allocate the KV cache; the engine is ready for requests.

    Raises `UnsupportedModelError`, `CheckpointError` or `NotEnoughMemoryError`.
    """
    config = load_model_config(model_path)
    device = torch.device(options.device)
    dtype = _resolve_dtype(options.dtype, model_path, device)
    if device.type == "cpu":
        torch.set_num_threads(options.num_threads or max(1, (os.cpu_count() or 2) // 2))
    else:
        # cuDNN's attention plans anew for every context length, 11 ms a layer: every decode step has a new one.
        torch.backends.cuda.enable_cudnn_sdp(False)
    context_length = options.context_length or config.context_length
    began = time.perf_counter()
    logger.info("Load weight begin. type=%s, device=%s, dtype=%s", config.architecture, device, dtype)
    decoder = load_decoder(model_path, config, device, dtype, context_length, TorchKernels())
    logger.info(
        "Load weight end. elapsed=%.2f s, mem usage=%.2f GB",
        time.perf_counter() - began,
        decoder.num_weight_bytes / 2**30,
    )
    num_pages = _num_pages(config, options, context_length, device, dtype)
    kv_layers = allocate_kv(config, num_pages, options.page_size, device, dtype)
    num_kv_tokens = num_pages * options.page_size
    num_bytes = num_pages * bytes_per_page(config, options.page_size, dtype)
    logger.info("KV Cache is allocated. #tokens: %d, size: %.2f GB", num_kv_tokens, num_bytes / 2**30)
    pool = PagePool(num_pages, options.page_size)
    cache = RadixPrefixCache(pool) if options.has_prefix_cache else NoPrefixCache(pool)
    residency = Residency(pool, cache, options.max_running_requests)
    scheduler = Scheduler(
        residency,
        max_running_requests=options.max_running_requests,
        max_prefill_tokens=options.chunked_prefill_size if options.chunked_prefill_size > 0 else num_kv_tokens,
        clock_ns=clock_ns,
    )
    if num_kv_tokens < context_length:
        logger.warning("The KV cache holds %d tokens: sequences end there, not at %d", num_kv_tokens, context_length)
    limits = AdmissionLimits(config.vocab_size, min(context_length, num_kv_tokens), num_kv_tokens)
    return Engine(scheduler, ModelRunner(decoder, kv_layers), residency, limits, config.eos_ids)


def _resolve_dtype(name: str, model_path: Path, device: torch.device) -> torch.dtype:
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


def _num_pages(
    config: ModelConfig, options: EngineOptions, context_length: int, device: torch.device, dtype: torch.dtype
) -> int:
    page_size = options.page_size
    if options.max_total_tokens is not None:
        return max(1, options.max_total_tokens // page_size)
    if device.type != "cpu":
        return pages_that_fit(free_device_bytes(device, options.mem_fraction), config, page_size, dtype)
    num_useful = -(-context_length // page_size) * options.max_running_requests
    return min(num_useful, pages_that_fit(options.cpu_kv_bytes, config, page_size, dtype))
