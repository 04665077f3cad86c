"""The tokenizer's settings. Names and defaults follow SGLang where it has them."""

from typing import Annotated

import msgspec
from msgspec import Meta


class TokenizerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Tokenizer: chat templates, encoding, choice of worker."""

    model_path: Annotated[str, Meta(description="A folder, a hub name, or `demo`", extra={"aliases": ["--model"]})] = (
        "demo"
    )
    tokenizer_path: Annotated[str | None, Meta(description="The tokenizer, if not in the model path")] = None
    revision: Annotated[str, Meta(description="Revision of a model on the hub")] = ""
    served_model_name: Annotated[str | None, Meta(description="Name in the API; the model path if unset")] = None
    context_length: (
        Annotated[int, Meta(ge=1, description="Longest sequence in tokens; the model's own if unset")] | None
    ) = None
    chat_template: Annotated[str, Meta(description="File with a Jinja chat template; the tokenizer's if unset")] = ""
    allow_auto_truncate: Annotated[bool, Meta(description="Truncate a too long prompt instead of refusing it")] = False
    tokenizer_threads: Annotated[int, Meta(ge=1, description="Threads that encode")] = 2

    @property
    def model_name(self) -> str:
        """The served name."""
        return self.served_model_name or self.model_path
