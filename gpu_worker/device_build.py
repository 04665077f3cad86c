"""Builds the runner of GPUs: Triton kernels, KV memory from what a trial run leaves free, CUDA graphs."""

import logging
import time

import torch

from gpu_worker.engine_options import EngineOptions
from gpu_worker.execution.device_model import DeviceLimits
from gpu_worker.execution.device_runner import DeviceRunner
from gpu_worker.execution.graphs import decode_sizes, mixed_sizes
from gpu_worker.execution.kv_memory import NotEnoughMemoryError, allocate_kv, bytes_per_page, kv_bytes, pages_that_fit
from gpu_worker.kernels.triton_kernels import TritonKernels
from gpu_worker.models.decoder import Decoder, KvLayer
from gpu_worker.runner_parts import ModelPlan, load_weights, log_kv_cache
from gpu_worker.trial import run_trial

logger = logging.getLogger(__name__)


def build_device_runner(plan: ModelPlan, options: EngineOptions) -> tuple[DeviceRunner, int]:
    """The runner, ready to run, and the number of its KV pages. Raises `NotEnoughMemoryError`."""
    config, device = plan.config, plan.device
    kernels = TritonKernels(
        options.max_running_requests, config.num_heads, config.num_kv_heads, config.head_dim, device
    )
    try:
        decoder = load_weights(plan, options, kernels)
        num_pages = _num_pages(plan, options, decoder, kernels)
        kv_layers = allocate_kv(config, num_pages, options.page_size, device, plan.dtype)
        log_kv_cache(plan, options.page_size, num_pages)
        runner = _runner(plan, options, decoder, kernels, kv_layers)
        if options.has_cuda_graphs:
            _record(runner, options)
    except torch.OutOfMemoryError as error:
        raise NotEnoughMemoryError(
            f"The device ran out of memory at start with --mem-fraction-static {options.mem_fraction}: lower it, or "
            f"--max-running-requests {options.max_running_requests}, --chunked-prefill-size "
            f"{options.chunked_prefill_size} or --cuda-graph-max-bs. ({error})"
        ) from error
    return runner, num_pages


def _runner(
    plan: ModelPlan,
    options: EngineOptions,
    decoder: Decoder,
    kernels: TritonKernels,
    kv_layers: list[KvLayer],
) -> DeviceRunner:
    page_size = options.page_size
    num_tokens = min(plan.context_length, len(kv_layers[0][0]) * page_size)
    limits = DeviceLimits(options.max_running_requests, -(-num_tokens // page_size), page_size)
    return DeviceRunner(decoder, kv_layers, kernels, limits)


def _num_pages(plan: ModelPlan, options: EngineOptions, decoder: Decoder, kernels: TritonKernels) -> int:
    """As many as the device holds beside the weights and what the largest steps need, which a trial finds out."""
    device, page_size = plan.device, options.page_size
    # Without chunks a step is as long as one prompt can be.
    is_chunked = options.chunked_prefill_size > 0
    num_trial_tokens = options.chunked_prefill_size if is_chunked else plan.context_length
    kv_layers = allocate_kv(plan.config, -(-num_trial_tokens // page_size), page_size, device, plan.dtype)
    runner = _runner(plan, options, decoder, kernels, kv_layers)
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run_trial(runner, len(kv_layers[0][0]), page_size, options.max_running_requests, plan.context_length)
    num_step_bytes = torch.cuda.max_memory_allocated(device) - before
    # The trial samples for few sequences; float32 logits of all, twice, is what sampling needs at most, and a count of
    # every id when there are penalties.
    num_step_bytes += 10 * options.max_running_requests * plan.config.vocab_size
    num_step_bytes += _graph_bytes(plan, options)
    del runner, kv_layers
    torch.cuda.empty_cache()
    if options.max_total_tokens is not None:
        return max(1, options.max_total_tokens // page_size)
    free, total = torch.cuda.mem_get_info(device)
    num_own_bytes = torch.cuda.memory_reserved(device)
    num_bytes = kv_bytes(free, total, num_own_bytes, num_step_bytes, options.mem_fraction)
    logger.info(
        "Memory pool: avail mem=%.2f GB, a step takes up to %.2f GB, mem_fraction_static=%.3f",
        free / 2**30,
        num_step_bytes / 2**30,
        options.mem_fraction,
    )
    page_bytes = bytes_per_page(plan.config, page_size, plan.dtype)
    if num_bytes < page_bytes:
        raise NotEnoughMemoryError(
            f"--mem-fraction-static {options.mem_fraction} leaves {num_bytes / 2**30:.2f} GB of {total / 2**30:.2f} GB "
            f"for the KV cache, beside weights of {decoder.num_weight_bytes / 2**30:.2f} GB, steps of "
            f"{num_step_bytes / 2**30:.2f} GB and what others have of the device ({free / 2**30:.2f} GB are free); "
            f"raise it, or lower "
            f"--chunked-prefill-size {options.chunked_prefill_size} or "
            f"--max-running-requests {options.max_running_requests}."
        )
    return pages_that_fit(num_bytes, plan.config, page_size, plan.dtype)


def _graph_bytes(plan: ModelPlan, options: EngineOptions) -> int:
    """What the results of all graphs take, which keep their places."""
    if not options.has_cuda_graphs:
        return 0
    num_logits = sum(decode_sizes(_max_decodes(options))) * plan.config.vocab_size
    num_rows = (min(size, options.max_running_requests) for size in mixed_sizes(_max_mixed_tokens(options)))
    num_states = sum(num_rows) * plan.config.hidden_size
    return (num_logits + num_states) * plan.dtype.itemsize


def _max_decodes(options: EngineOptions) -> int:
    return min(options.cuda_graph_max_bs or options.max_running_requests, options.max_running_requests)


def _max_mixed_tokens(options: EngineOptions) -> int:
    limit = options.max_running_requests + options.chunked_prefill_size
    return (
        min(options.cuda_graph_max_tokens, limit) if options.chunked_prefill_size > 0 else options.cuda_graph_max_tokens
    )


def _record(runner: DeviceRunner, options: EngineOptions) -> None:
    began = time.perf_counter()
    before, _ = torch.cuda.mem_get_info()
    logger.info("Capture cuda graph begin. This can take up to several minutes. avail mem=%.2f GB", before / 2**30)
    runner.record(_max_decodes(options), _max_mixed_tokens(options))
    after, _ = torch.cuda.mem_get_info()
    logger.info(
        "Capture cuda graph end. Time elapsed: %.2f s. mem usage=%.2f GB. avail mem=%.2f GB.",
        time.perf_counter() - began,
        (before - after) / 2**30,
        after / 2**30,
    )
