"""The operations of a decoder on a GPU. Importing this needs Triton."""

import torch
from torch import Tensor

from gpu_worker.kernels.triton_ops import attention, decode_step, linear, rope


class TritonKernels:
    """See `Kernels`. Holds the buffers that the decodes of all layers and steps share."""

    begin_decode_ = staticmethod(decode_step.begin_decode_)
    norm_linear = staticmethod(linear.norm_linear)
    norm_gate_up = staticmethod(linear.norm_gate_up)
    linear_add_ = staticmethod(linear.linear_add_)
    rope_write_kv = staticmethod(rope.rope_write_kv)
    paged_decode_attention = staticmethod(attention.paged_decode_attention)
    rope_decode_attention = staticmethod(attention.rope_decode_attention)
    paged_prefill_attention = staticmethod(attention.paged_prefill_attention)

    def __init__(self, max_seqs: int, num_heads: int, num_kv_heads: int, head_dim: int, device: torch.device) -> None:
        self._plan = attention.make_decode_plan(max_seqs, num_heads, num_kv_heads, head_dim, device)

    def plan_decodes(self, context_lens: Tensor) -> attention.DecodePlan:
        """The one plan that there is, filled on the device; it holds until the next call."""
        attention.plan_decode_(self._plan, context_lens)
        return self._plan
