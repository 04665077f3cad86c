"""In plain torch: the CPU backend, and the reference for the Triton twins."""
