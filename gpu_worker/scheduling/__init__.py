"""Which sequences run in which step. Integers only; knows no tensors and no bus."""
