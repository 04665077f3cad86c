"""What the model has to say about sampling: defaults of generation_config.json, and ids that exist.

`generation_config.json` is written for Hugging Face's `generate`; its values mean here what they mean there:
`do_sample: false` is greedy (temperature 0), `top_k: 0` is off. A value outside the range of the API is ignored with a
warning when the stage starts.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tokenizer_svc.errors import invalid
from wire.sampling import SamplingParams

log = logging.getLogger(__name__)


class _GenerationConfig(msgspec.Struct, frozen=True):
    """The part of generation_config.json that may set sampling, with the ranges of the API."""

    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """The sampling fields that the model's authors set."""

    values: Mapping[str, float]

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> "ModelDefaults":
        """The usable values of a generation_config.json."""
        values = {}
        for field in msgspec.structs.fields(_GenerationConfig):
            given = config.get(field.name)
            try:
                value = msgspec.convert(given, field.type)
            except msgspec.ValidationError as error:
                log.warning("generation_config.json: %s is ignored: %s, got %r", field.name, error, given)
                continue
            if value is not None:
                values[field.name] = value
        if values.get("top_k") == 0:
            values["top_k"] = -1
        if config.get("do_sample") is False:
            values["temperature"] = 0.0
        return cls(values)

    def fill(self, sampling: SamplingParams, unset: tuple[str, ...]) -> SamplingParams:
        """The parameters with the model's values for those fields that the client left unset."""
        chosen = {name: self.values[name] for name in unset if name in self.values}
        return msgspec.structs.replace(sampling, **chosen) if chosen else sampling


def check_vocabulary(sampling: SamplingParams, vocab_size: int) -> None:
    """Raises `RequestError` for a biased or stopping id that the model does not have."""
    for token_id in sampling.logit_bias:
        if not 0 <= token_id < vocab_size:
            raise invalid(f"logit_bias must has keys in [0, {vocab_size - 1}], got {token_id}.")
    for token_id in sampling.stop_token_ids:
        if not 0 <= token_id < vocab_size:
            raise invalid(f"stop_token_ids must be in [0, {vocab_size - 1}], got {token_id}.")
