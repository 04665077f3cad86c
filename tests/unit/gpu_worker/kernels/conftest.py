"""Where the Triton kernels run: compiled on a GPU, else in Triton's interpreter (see `tests/conftest.py`)."""

from collections import Counter
from pathlib import Path

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter is some thousand times slower: it runs every third case of a test, a GPU all of them.
_EVERY = 3


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if DEVICE == "cuda":
        return
    num_cases: Counter[str] = Counter()
    kept, left_out = [], []
    for item in items:
        test = item.nodeid.partition("[")[0]
        is_kernel = item.path.parent == Path(__file__).parent and item.path.stem.endswith("_triton")
        (left_out if is_kernel and num_cases[test] % _EVERY else kept).append(item)
        num_cases[test] += 1
    items[:] = kept
    if left_out:
        config.hook.pytest_deselected(items=left_out)
