"""The engine as it is on a GPU (state on the device, steps that overlap), on a CPU: without graphs, in plain torch."""

from pathlib import Path

import torch

from gpu_worker.engine import Engine
from gpu_worker.execution.device_model import DeviceLimits
from gpu_worker.execution.device_runner import DeviceRunner
from gpu_worker.execution.kv_memory import allocate_kv
from gpu_worker.kernels.kernels import Kernels, TorchKernels
from gpu_worker.kv.page_pool import PagePool
from gpu_worker.kv.radix_prefix_cache import RadixPrefixCache
from gpu_worker.models.config import load_model_config
from gpu_worker.models.loading import load_decoder
from gpu_worker.scheduling.admission import AdmissionLimits
from gpu_worker.scheduling.residency import Residency
from gpu_worker.scheduling.scheduler import Scheduler
from tests.unit.gpu_worker.kernels.interpreter import allow_computed_loop_bounds

allow_computed_loop_bounds()

MAX_SEQS = 8


def device_engine(
    path: Path,
    *,
    num_tokens: int = 1024,
    page_size: int = 16,
    chunk: int = 1000,
    overlaps: bool = True,
    kernels: Kernels | None = None,
) -> Engine:
    """An engine over a checkpoint, in float32."""
    config, device = load_model_config(path), torch.device("cpu")
    kernels = kernels or TorchKernels()
    decoder = load_decoder(path, config, device, torch.float32, config.context_length, kernels)
    num_pages = num_tokens // page_size
    kv_layers = allocate_kv(config, num_pages, page_size, device, torch.float32)
    limits = DeviceLimits(MAX_SEQS, num_pages, page_size)
    runner = DeviceRunner(decoder, kv_layers, kernels, limits)
    pool = PagePool(num_pages, page_size)
    residency = Residency(pool, RadixPrefixCache(pool), MAX_SEQS)
    scheduler = Scheduler(residency, max_running_requests=MAX_SEQS, max_prefill_tokens=chunk, has_runs=True)
    admission = AdmissionLimits(config.vocab_size, config.context_length, num_tokens)
    return Engine(scheduler, runner, residency, admission, config.eos_ids, overlaps=overlaps)
