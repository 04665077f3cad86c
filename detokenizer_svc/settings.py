"""The detokenizer's settings. Names and defaults follow SGLang where it has them."""

from typing import Annotated

import msgspec
from msgspec import Meta


class DetokenizerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Detokenizer: ids to text, stop strings."""

    model_path: Annotated[str, Meta(description="A folder, a hub name, or `demo`", extra={"aliases": ["--model"]})] = (
        "demo"
    )
    tokenizer_path: Annotated[str | None, Meta(description="The tokenizer, if not in the model path")] = None
    revision: Annotated[str, Meta(description="Revision of a model on the hub")] = ""
    served_model_name: Annotated[str | None, Meta(description="Name in the API; the model path if unset")] = None

    @property
    def model_name(self) -> str:
        """The served name."""
        return self.served_model_name or self.model_path
