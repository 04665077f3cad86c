"""Builds the runner of CPUs, and of float64 anywhere: plain torch, a step at a time."""

import os

import torch

from gpu_worker.engine_options import EngineOptions
from gpu_worker.execution.kv_memory import allocate_kv, pages_that_fit
from gpu_worker.execution.model_runner import ModelRunner
from gpu_worker.kernels.kernels import TorchKernels
from gpu_worker.runner_parts import ModelPlan, load_weights, log_kv_cache


def build_plain_runner(plan: ModelPlan, options: EngineOptions) -> tuple[ModelRunner, int]:
    """The runner and the number of its KV pages."""
    if plan.device.type == "cpu":
        torch.set_num_threads(options.num_threads or max(1, (os.cpu_count() or 2) // 2))
    else:
        # cuDNN's attention plans anew for every context length, 11 ms a layer: every decode step has a new one.
        torch.backends.cuda.enable_cudnn_sdp(False)
    decoder = load_weights(plan, options, TorchKernels())
    num_pages = _num_pages(plan, options)
    kv_layers = allocate_kv(plan.config, num_pages, options.page_size, plan.device, plan.dtype)
    log_kv_cache(plan, options.page_size, num_pages)
    return ModelRunner(decoder, kv_layers), num_pages


def _num_pages(plan: ModelPlan, options: EngineOptions) -> int:
    if options.max_total_tokens is not None:
        return max(1, options.max_total_tokens // options.page_size)
    num_useful = -(-plan.context_length // options.page_size) * options.max_running_requests
    return min(num_useful, pages_that_fit(options.cpu_kv_bytes, plan.config, options.page_size, plan.dtype))
