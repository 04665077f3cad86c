"""The one error of this stage: a request that cannot go on, and why."""

from wire.messages import ErrorCode


class RequestError(Exception):
    """Becomes the request's `Failed`, or the `ErrorReply` of a question; the message states limit and value."""

    def __init__(self, code: ErrorCode, message: str, *, is_retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.is_retryable = is_retryable


def invalid(message: str) -> RequestError:
    """The client's own mistake."""
    return RequestError(ErrorCode.INVALID_REQUEST, message)
