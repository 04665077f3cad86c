"""Attention over paged keys and values, with grouped query heads: see `torch_ops` for the shapes."""

from gpu_worker.kernels.triton_ops.decode_attention import paged_decode_attention, rope_decode_attention
from gpu_worker.kernels.triton_ops.decode_plan import DecodePlan, make_decode_plan, plan_decode_
from gpu_worker.kernels.triton_ops.prefill_attention import paged_prefill_attention

__all__ = [
    "DecodePlan",
    "make_decode_plan",
    "paged_decode_attention",
    "paged_prefill_attention",
    "plan_decode_",
    "rope_decode_attention",
]
