"""How kernels are launched, where it is the same for several of them."""

DEPENDENT_LAUNCH = False
"""Whether kernels of small batches start while the one before them ends (CUDA's programmatic dependent launch).

Such a kernel asks for its first weights at once and waits (`gdc_wait`) before it touches anything that another kernel
reads or writes; so whoever launches with `launch_pdl` must wait in every program. Needs compute capability 9.0.
"""
