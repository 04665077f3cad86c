"""Where the Triton kernels run: compiled on a GPU, else in Triton's interpreter (see `tests/conftest.py`)."""

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
