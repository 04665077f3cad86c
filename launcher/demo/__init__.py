"""The demo model: a tiny language model that ships with Millrace, so that a fresh clone has something to serve."""

from pathlib import Path


def model_path() -> Path:
    """The folder with the demo model's config, weights and tokenizer."""
    return Path(__file__).parent / "model"
