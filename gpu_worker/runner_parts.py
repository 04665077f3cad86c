"""What every runner is built of, and what is logged of it."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from gpu_worker.engine_options import EngineOptions
from gpu_worker.execution.kv_memory import bytes_per_page
from gpu_worker.kernels.kernels import Kernels
from gpu_worker.models.config import ModelConfig
from gpu_worker.models.decoder import Decoder
from gpu_worker.models.loading import load_decoder, random_decoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What is decided of a model before anything of it is on the device."""

    path: Path
    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    context_length: int


def load_weights(plan: ModelPlan, options: EngineOptions, kernels: Kernels) -> Decoder:
    """The decoder, from the checkpoint's files or at random."""
    began = time.perf_counter()
    config, device, dtype = plan.config, plan.device, plan.dtype
    logger.info("Load weight begin. type=%s, device=%s, dtype=%s", config.architecture, device, dtype)
    if options.has_random_weights:
        decoder = random_decoder(config, device, dtype, plan.context_length, kernels)
    else:
        decoder = load_decoder(plan.path, config, device, dtype, plan.context_length, kernels)
    elapsed, size = time.perf_counter() - began, decoder.num_weight_bytes / 2**30
    logger.info("Load weight end. elapsed=%.2f s, mem usage=%.2f GB", elapsed, size)
    return decoder


def log_kv_cache(plan: ModelPlan, page_size: int, num_pages: int) -> None:
    """In SGLang's words."""
    num_bytes = num_pages * bytes_per_page(plan.config, page_size, plan.dtype)
    logger.info("KV Cache is allocated. #tokens: %d, size: %.2f GB", num_pages * page_size, num_bytes / 2**30)
