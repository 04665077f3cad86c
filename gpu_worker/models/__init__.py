"""Decoders and their checkpoints. Knows tensors and files; knows no sequences and no scheduler."""
