"""What an operator may choose of an engine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an operator may choose.

    `dtype` "auto" is the checkpoint's on a GPU and float32 on a CPU. The KV cache holds `max_total_tokens` if given;
    else a GPU is filled up to `mem_fraction`, and a CPU, or float64 anywhere, gives `cpu_kv_bytes`, but never more than
    all running sequences can use. `chunked_prefill_size` -1 makes a step as long as one prompt can be.
    `num_threads` is for a CPU; None takes half the cores, since the pipeline's other processes need theirs.
    `has_cuda_graphs`, `cuda_graph_max_bs` (None: `max_running_requests`), `cuda_graph_max_tokens` (of steps with a
    prefill; 0: none) and `overlaps` matter on a GPU alone.
    """

    device: str = "cpu"
    dtype: str = "auto"
    context_length: int | None = None
    page_size: int = 16
    max_running_requests: int = 256
    chunked_prefill_size: int = 8192
    max_total_tokens: int | None = None
    mem_fraction: float = 0.87
    cpu_kv_bytes: int = 1 << 30
    has_prefix_cache: bool = True
    num_threads: int | None = None
    has_random_weights: bool = False
    has_cuda_graphs: bool = True
    cuda_graph_max_bs: int | None = None
    cuda_graph_max_tokens: int = 4096
    overlaps: bool = True
