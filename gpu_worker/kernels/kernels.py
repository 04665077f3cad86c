"""The operations that a decoder is made of: a swap point with two implementations, `torch_ops` and `triton_ops`."""

from typing import Any, Protocol

from torch import Tensor

from gpu_worker.kernels.torch_ops import attention, decode_step, linear, rope


class Kernels(Protocol):
    """See the functions of the same names in `torch_ops` for shapes."""

    def begin_decode_(
        self,
        table_rows: Tensor,
        context_lens: Tensor,
        last_ids: Tensor,
        page_tables: Tensor,
        page_size: int,
        token_ids: Tensor,
        positions: Tensor,
        slot_mapping: Tensor,
    ) -> None:
        """Take every sequence one token further."""
        ...

    def plan_decodes(self, context_lens: Tensor) -> Any:
        """What `paged_decode_attention` wants to know of these contexts, once for all layers."""
        ...

    def norm_linear(
        self, hidden: Tensor, norm_weight: Tensor, eps: float, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """A normalisation and the projection that follows it."""
        ...

    def norm_gate_up(
        self, hidden: Tensor, norm_weight: Tensor, eps: float, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """The first half of a feed-forward block."""
        ...

    def linear_add_(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> None:
        """A projection whose result is added to the residual in place."""
        ...

    def rope_write_kv(
        self,
        qkv: Tensor,
        cos: Tensor,
        signed_sin: Tensor,
        positions: Tensor,
        query_norm: Tensor | None,
        key_norm: Tensor | None,
        eps: float,
        k_cache: Tensor,
        v_cache: Tensor,
        slot_mapping: Tensor,
    ) -> Tensor:
        """Rotated queries; keys and values go to their pages."""
        ...

    def paged_decode_attention(
        self,
        query: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        page_tables: Tensor,
        table_rows: Tensor | None,
        context_lens: Tensor,
        plan: Any,
        scale: float,
        sliding_window: int | None = None,
    ) -> Tensor:
        """One query token per sequence against its whole context."""
        ...

    def rope_decode_attention(
        self,
        qkv: Tensor,
        cos: Tensor,
        signed_sin: Tensor,
        query_norm: Tensor | None,
        key_norm: Tensor | None,
        eps: float,
        k_cache: Tensor,
        v_cache: Tensor,
        slot_mapping: Tensor,
        page_tables: Tensor,
        table_rows: Tensor | None,
        context_lens: Tensor,
        plan: Any,
        scale: float,
        sliding_window: int | None = None,
    ) -> Tensor:
        """`rope_write_kv` and `paged_decode_attention` of one token per sequence."""
        ...

    def paged_prefill_attention(
        self,
        query: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        page_tables: Tensor,
        table_rows: Tensor | None,
        query_starts: Tensor,
        context_lens: Tensor,
        max_query_len: int,
        scale: float,
        sliding_window: int | None = None,
    ) -> Tensor:
        """Chunks against their cached prefix and themselves."""
        ...


class TorchKernels:
    """Plain torch: for CPUs, for float64 and as the reference."""

    begin_decode_ = staticmethod(decode_step.begin_decode_)
    plan_decodes = staticmethod(attention.plan_decodes)
    norm_linear = staticmethod(linear.norm_linear)
    norm_gate_up = staticmethod(linear.norm_gate_up)
    linear_add_ = staticmethod(linear.linear_add_)
    rope_write_kv = staticmethod(rope.rope_write_kv)
    paged_decode_attention = staticmethod(attention.paged_decode_attention)
    rope_decode_attention = staticmethod(attention.rope_decode_attention)
    paged_prefill_attention = staticmethod(attention.paged_prefill_attention)
