"""The model as this stage sees it: tokenizer, vocabulary, context length, sampling defaults. Knows no bus."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer_svc.errors import invalid
from tokenizer_svc.lengths import ContextWindow
from tokenizer_svc.sampling import ModelDefaults, check_vocabulary
from tokenizer_svc.settings import TokenizerSettings
from tokenizer_svc.text_tokenizer import TextTokenizer
from wire.checkpoint import Checkpoint, resolve
from wire.columns import count_u32, unpack_u32
from wire.messages import ChatPrompt, Prompt, TextPrompt, TokenizeJob, TokensPrompt
from wire.sampling import SamplingParams

MAX_NEW_TOKENS = "max_new_tokens"


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """What a worker needs of the prompt: ids (a u32 column), and sampling parameters with every default resolved."""

    prompt_ids: bytes
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Read-only after loading; every method may run in any thread."""

    checkpoint: Checkpoint
    tokenizer_folder: Path
    tokenizer: TextTokenizer
    window: ContextWindow
    defaults: ModelDefaults
    vocab_size: int

    @classmethod
    def load(cls, settings: TokenizerSettings) -> "ServedModel":
        """Reads the model's folder (no weights); raises `CheckpointError`."""
        checkpoint = resolve(settings.model_path, revision=settings.revision, with_weights=False)
        folder = _tokenizer_folder(settings, checkpoint)
        tokenizer = TextTokenizer.load(folder, settings.chat_template)
        return cls(
            checkpoint=checkpoint,
            tokenizer_folder=folder,
            tokenizer=tokenizer,
            window=ContextWindow(settings.context_length or checkpoint.context_length, settings.allow_auto_truncate),
            defaults=ModelDefaults.from_generation_config(checkpoint.generation_config),
            vocab_size=int(checkpoint.config.get("vocab_size", len(tokenizer))),
        )

    def prepare(self, job: TokenizeJob, longest: int | None = None) -> PreparedPrompt:
        """Ids and resolved parameters of an attempt; raises `RequestError`.

        `longest` is how many tokens of a sequence the workers hold, if that is known.

        A resume carries both already, and neither is checked or changed again.
        """
        if job.is_resume:
            if not isinstance(job.prompt, TokensPrompt):
                raise invalid("A resume carries its prompt as token ids.")
            return PreparedPrompt(job.prompt.token_ids, job.sampling)
        sampling = self.defaults.fill(job.sampling, job.sampling_from_model)
        check_vocabulary(sampling, self.vocab_size)
        prompt_ids = self.encode(job.prompt)
        if not prompt_ids:
            raise invalid("The prompt is empty: it has no tokens.")
        window = self.window.within(longest)
        prompt_ids = window.fit_prompt(prompt_ids)
        is_default = MAX_NEW_TOKENS in job.sampling_from_model
        sampling = window.fit_output(count_u32(prompt_ids), sampling, is_default=is_default)
        return PreparedPrompt(prompt_ids, sampling)

    def encode(self, prompt: Prompt, *, add_special_tokens: bool = True) -> bytes:
        """The ids of a prompt as a u32 column. A chat's special tokens come from its template alone."""
        match prompt:
            case TextPrompt(text):
                return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
            case ChatPrompt():
                return self.tokenizer.encode(self.tokenizer.render(prompt), add_special_tokens=False)
            case TokensPrompt(token_ids):
                self._check_ids(token_ids)
                return token_ids

    def decode(self, token_ids: bytes, *, skip_special_tokens: bool) -> str:
        """The text of a u32 column; raises `RequestError` for an id outside the vocabulary."""
        self._check_ids(token_ids)
        return self.tokenizer.decode(unpack_u32(token_ids), skip_special_tokens=skip_special_tokens)

    def description(self, settings: TokenizerSettings) -> dict[str, Any]:
        """What `/model_info` shows."""
        config = self.checkpoint.config
        return {
            "model_path": settings.model_path,
            "tokenizer_path": settings.tokenizer_path or settings.model_path,
            "model_type": config.get("model_type"),
            "architectures": _strings(config.get("architectures")),
            "context_length": self.window.length,
            "vocab_size": self.vocab_size,
            "has_chat_template": self.tokenizer.has_chat_template,
            "preferred_sampling_params": dict(self.defaults.values),
        }

    def _check_ids(self, token_ids: bytes) -> None:
        if len(token_ids) % 4:
            raise invalid(f"A column of token ids has a multiple of 4 bytes, got {len(token_ids)}.")
        column = np.frombuffer(token_ids, dtype="<u4")  # `max` of 200 k ids would hold the GIL for milliseconds
        largest = int(column.max(initial=0))
        if largest >= self.vocab_size:
            limit = self.vocab_size
            raise invalid(f"Token id {largest} is out of vocabulary: ids must be in [0, {limit - 1}].")


def _tokenizer_folder(settings: TokenizerSettings, checkpoint: Checkpoint) -> Path:
    """A tokenizer's own folder needs no config.json, a model's does."""
    if settings.tokenizer_path is None:
        return checkpoint.path
    folder = Path(settings.tokenizer_path).expanduser()
    return folder if folder.is_dir() else resolve(settings.tokenizer_path, with_weights=False).path


def _strings(values: Any) -> list[str]:
    return [str(value) for value in values] if isinstance(values, Iterable) and not isinstance(values, str) else []
