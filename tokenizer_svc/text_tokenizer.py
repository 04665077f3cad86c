"""Text to ids and back, and chats to text: a transformers folder behind four verbs. Knows no request and no limit.

Every method is safe to call from several threads at once; encoding releases the GIL.
"""

import inspect
from array import array
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from tokenizer_svc.chat import plain_messages
from tokenizer_svc.errors import RequestError, invalid
from wire.checkpoint import CheckpointError
from wire.columns import pack_u32
from wire.messages import ChatPrompt

# A template is a program that somebody else wrote: on odd messages it can fail in any of these ways.
_TEMPLATE_ERRORS = (TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
_RESERVED = {"messages", "conversations", *inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters}
_RESERVED -= {"documents", "kwargs"}
_MAX_ERROR_CHARS = 500


class TextTokenizer:
    """One model's tokenizer and chat template."""

    def __init__(self, tokenizer: Any) -> None:
        """Takes a `PreTrainedTokenizerFast`; it must not be used elsewhere."""
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        # A tokenizer.json may carry the truncation and padding of its training; neither belongs to serving.
        self._backend.no_truncation()
        self._backend.no_padding()

    @classmethod
    def load(cls, folder: Path, chat_template_file: str = "") -> "TextTokenizer":
        """Reads tokenizer.json, and what else of the tokenizer the folder has; raises `CheckpointError`.

        Not through AutoTokenizer: that imports torch where it is installed, and for a folder without a
        tokenizer_config.json it rebuilds the pipeline from the architecture's name instead of reading it.
        """
        if not (folder / "tokenizer.json").is_file():
            raise CheckpointError(f"{folder} holds no tokenizer.json: only fast tokenizers are supported")
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
        except Exception as error:  # the Rust tokenizer raises no narrower class
            raise CheckpointError(f"the tokenizer in {folder} cannot be read: {error}") from error
        if chat_template_file:
            tokenizer.chat_template = _read_template(Path(chat_template_file).expanduser())
        return cls(tokenizer)

    def __len__(self) -> int:
        """Ids that have a token."""
        return len(self._tokenizer)

    @property
    def has_chat_template(self) -> bool:
        """Whether `render` can work."""
        return bool(self._tokenizer.chat_template)

    def encode(self, text: str, *, add_special_tokens: bool) -> bytes:
        """The ids of a text as a u32 column; with the special tokens that the tokenizer's configuration adds."""
        # The batch call releases the GIL and this one computes no offsets; `encode` does neither.
        encodings = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return pack_u32(encodings[0].ids)

    def decode(self, token_ids: "array[int]", *, skip_special_tokens: bool) -> str:
        """The text of ids; ids without a token give no text."""
        return str(self._tokenizer.decode(token_ids.tolist(), skip_special_tokens=skip_special_tokens))

    def render(self, chat: ChatPrompt) -> str:
        """The chat as the template writes it; raises `RequestError` for messages that the template refuses."""
        if not self.has_chat_template:
            raise invalid("This model has no chat template: use a text prompt, or start with --chat-template.")
        for name in sorted(chat.template_kwargs.keys() & _RESERVED):
            raise invalid(f"chat_template_kwargs must not contain {name!r}.")
        messages = plain_messages(chat.messages)
        try:
            text = self._tokenizer.apply_chat_template(
                messages,
                tools=chat.tools or None,
                tokenize=False,
                add_generation_prompt=chat.add_generation_prompt and not chat.continue_final_message,
                continue_final_message=chat.continue_final_message,
                **chat.template_kwargs,
            )
        except _TEMPLATE_ERRORS as error:
            raise _refused(error) from error
        return str(text)


def _refused(error: Exception) -> RequestError:
    return invalid(f"The chat template refuses this request: {str(error)[:_MAX_ERROR_CHARS]}")


def _read_template(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"--chat-template: {file} cannot be read: {error}") from error
