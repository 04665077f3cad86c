"""The errors by which a request ends when recovery can do no more."""

from gateway.errors import RequestError
from gateway.inflight.generation import Cause, Generation
from wire.messages import ErrorCode, Stage


def gave_up(generation: Generation, cause: Cause) -> RequestError:
    """Too many attempts brought nothing."""
    message = (
        f"The request was tried {generation.num_attempts} times and made no progress in the last "
        f"{generation.num_repairs}; the last attempt ended with: {cause.value}."
    )
    return RequestError(500, message, code=ErrorCode.INTERNAL.value)


def crashed(generation: Generation, cause: Cause, min_progress: int) -> RequestError:
    """Workers die of it, or it has the worst of luck."""
    message = (
        f"The request was tried {generation.num_attempts} times, and {generation.num_crashes} times in a row its step "
        f"or its worker crashed before it had given {min_progress} tokens; the last attempt ended with: {cause.value}."
    )
    return RequestError(500, message, code=ErrorCode.INTERNAL.value)


def not_recovered(cause: Cause) -> RequestError:
    """Something was lost, and recovery is turned off."""
    message = f"The request was lost ({cause.value}), and recovery is disabled."
    return RequestError(503, message, code=ErrorCode.UNAVAILABLE.value)


def no_instance(stage: Stage, timeout_s: float) -> RequestError:
    """It was parked for too long."""
    return RequestError(503, f"No {stage.value} came back within {timeout_s:g} s.", code=ErrorCode.UNAVAILABLE.value)
