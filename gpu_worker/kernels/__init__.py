"""Operations on tensors: `torch_ops` in plain torch, for CPUs and as reference; `triton_ops` the same for GPUs.

They know tensors only: no sequences, no pages' owners, no model. An operation has the same module, name and signature
in both.
"""
