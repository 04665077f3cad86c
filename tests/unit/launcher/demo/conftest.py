"""The demo model, loaded once for all tests of this folder."""

from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, Qwen2ForCausalLM

from launcher.demo import model_path


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_path())
    return loaded


@pytest.fixture(scope="session")
def model() -> Iterator[Qwen2ForCausalLM]:
    loaded = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    assert isinstance(loaded, Qwen2ForCausalLM)
    # So small a model gains little from a second thread, and loses much when the machine is busy.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield loaded
    torch.set_num_threads(num_threads)
