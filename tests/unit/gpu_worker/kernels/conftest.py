"""Without a GPU the Triton kernels run in Triton's interpreter, which must be chosen before they are imported."""

import os

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
