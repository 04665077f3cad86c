"""The worker's settings. Names and defaults follow SGLang where it has them."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Worker: the engine."""

    model_path: Annotated[str, Meta(description="A folder, a hub name, or `demo`", extra={"aliases": ["--model"]})] = (
        "demo"
    )
    revision: Annotated[str, Meta(description="Revision of a model on the hub")] = ""
    served_model_name: Annotated[str | None, Meta(description="Name in the API; the model path if unset")] = None
    context_length: (
        Annotated[int, Meta(ge=1, description="Longest sequence in tokens; the model's own if unset")] | None
    ) = None
    device: Annotated[Literal["auto", "cpu", "cuda"], Meta(description="Where the model runs")] = "auto"
    dtype: Annotated[
        Literal["auto", "float16", "bfloat16", "float32", "float64", "half", "float"],
        Meta(description="Precision; auto is the checkpoint's own on CUDA and float32 on a CPU"),
    ] = "auto"
    page_size: Annotated[int, Meta(ge=1, description="Tokens per page of the KV cache")] = 16
    load_format: Annotated[
        Literal["auto", "safetensors", "dummy"],
        Meta(description="dummy gives random weights, to measure without a checkpoint"),
    ] = "auto"
    mem_fraction_static: Annotated[
        float,
        Meta(
            gt=0, lt=1, description="Share of a GPU's memory for weights and KV cache; not for a CPU, nor for float64"
        ),
    ] = 0.87
    max_total_tokens: (
        Annotated[
            int,
            Meta(
                ge=1,
                description="Tokens in the KV cache; if unset, what mem_fraction_static leaves on a GPU, or 1 GiB on a "
                "CPU and for float64",
            ),
        ]
        | None
    ) = None
    max_running_requests: Annotated[int, Meta(ge=1, le=8192, description="Sequences that run at the same time")] = 256
    chunked_prefill_size: Annotated[
        int, Meta(description="Prompt tokens per step, at most; -1 makes that the context length")
    ] = 8192
    disable_radix_cache: Annotated[bool, Meta(description="Do not reuse the KV cache of equal prefixes")] = False
    disable_cuda_graph: Annotated[
        bool,
        Meta(description="Launch every kernel of a decode step by itself", extra={"aliases": ["--enforce-eager"]}),
    ] = False
    cuda_graph_max_bs: (
        Annotated[int, Meta(ge=1, description="Largest batch with a CUDA graph; max_running_requests if unset")] | None
    ) = None
    cuda_graph_max_tokens: Annotated[
        int, Meta(ge=0, description="Tokens of the largest step with a prefill that has a CUDA graph; 0 for none")
    ] = 4096
    disable_overlap_schedule: Annotated[
        bool, Meta(description="Read the tokens of a step before the next one is launched (GPU only)")
    ] = False
    decode_log_interval: Annotated[int, Meta(ge=1, description="Decode steps per log line")] = 40
    step_timeout: Annotated[float, Meta(gt=0, description="Seconds after which a step counts as hung")] = 60.0
    num_threads: Annotated[int, Meta(ge=1, description="CPU threads; half the cores if unset")] | None = None

    @property
    def model_name(self) -> str:
        """The served name."""
        return self.served_model_name or self.model_path
