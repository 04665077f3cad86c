"""The body of an error, as `gateway.errors.body_of` fills it; here for the documentation."""

import msgspec


class ErrorDetails(msgspec.Struct, forbid_unknown_fields=True):
    """What OpenAI's and vLLM's clients read. `code` is a word where there is one, else the status."""

    message: str
    type: str
    param: str | None
    code: int | str


class ErrorBody(msgspec.Struct, forbid_unknown_fields=True):
    """What SGLang's clients read, with the nested form in `error`; its message states limit and value.

    Where a body breaks the schema of a native route, `error` is the message alone.
    """

    object: str
    message: str
    type: str
    param: str | None
    code: int
    error: ErrorDetails | str
