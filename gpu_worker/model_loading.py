"""From settings to a running engine and what the world may know of its model."""

import logging

import torch

from gpu_worker.engine_build import build_engine, resolve_dtype
from gpu_worker.engine_host import LoadedModel
from gpu_worker.engine_options import EngineOptions
from gpu_worker.execution.kv_memory import NotEnoughMemoryError
from gpu_worker.models.config import UnsupportedModelError
from gpu_worker.models.loading import CheckpointError as BrokenCheckpointError
from gpu_worker.settings import WorkerSettings
from wire.checkpoint import Checkpoint, CheckpointError, resolve

log = logging.getLogger(__name__)


def load_model(settings: WorkerSettings) -> LoadedModel:
    """Finds the checkpoint, loads it and allocates the KV cache. Takes seconds, or minutes with a download.

    Raises `wire.checkpoint.CheckpointError` for whatever keeps the model from being served.
    """
    checkpoint = resolve(settings.model_path, revision=settings.revision)
    options = _options(settings)
    try:
        engine = build_engine(checkpoint.path, options)
    except (BrokenCheckpointError, UnsupportedModelError, NotEnoughMemoryError) as error:
        raise CheckpointError(str(error)) from error
    limits = engine.limits
    context_length = min(limits.context_length, limits.num_kv_tokens)  # a sequence cannot be longer than the cache
    log.info(
        "max_total_num_tokens=%d, chunked_prefill_size=%d, max_running_requests=%d, context_len=%d",
        limits.num_kv_tokens,
        settings.chunked_prefill_size,
        settings.max_running_requests,
        context_length,
    )
    return LoadedModel(
        engine=engine,
        fingerprint=_fingerprint(checkpoint, options),
        context_length=context_length,
        page_size=settings.page_size,
        description=_describe(checkpoint, options, settings),
    )


def _options(settings: WorkerSettings) -> EngineOptions:
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return EngineOptions(
        device=device,
        dtype=settings.dtype,
        context_length=settings.context_length,
        page_size=settings.page_size,
        max_running_requests=settings.max_running_requests,
        chunked_prefill_size=settings.chunked_prefill_size,
        max_total_tokens=settings.max_total_tokens,
        mem_fraction=settings.mem_fraction_static,
        has_prefix_cache=not settings.disable_radix_cache,
        num_threads=settings.num_threads,
        has_random_weights=settings.load_format == "dummy",
        has_cuda_graphs=not settings.disable_cuda_graph,
        cuda_graph_max_bs=settings.cuda_graph_max_bs,
        cuda_graph_max_tokens=settings.cuda_graph_max_tokens,
        overlaps=not settings.disable_overlap_schedule,
    )


def _fingerprint(checkpoint: Checkpoint, options: EngineOptions) -> str:
    """Equal at workers that may go on with each other's streams: with the same weights in the same precision.

    Random weights are of a kind of their own.
    """
    dtype = resolve_dtype(options.dtype, checkpoint.path, torch.device(options.device))
    kind = "-dummy" if options.has_random_weights else ""
    return f"{checkpoint.fingerprint()}-{str(dtype).removeprefix('torch.')}{kind}"


def _describe(checkpoint: Checkpoint, options: EngineOptions, settings: WorkerSettings) -> dict[str, object]:
    return {
        "model_path": settings.model_path,
        "model_type": checkpoint.config.get("model_type", ""),
        "architectures": checkpoint.config.get("architectures", []),
        "device": options.device,
        "dtype": options.dtype,
    }
