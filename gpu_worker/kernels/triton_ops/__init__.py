"""Triton kernels, each beside a function of the same name and signature in `torch_ops`."""
