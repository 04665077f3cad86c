"""From a job of the bus to what the engine is asked to do."""

from gpu_worker.held_requests import HeldRequest
from gpu_worker.scheduling.sequence import GenerationRequest, NewSequence
from wire.columns import unpack_u32
from wire.messages import GenerateJob

# More than the gateway takes for progress, since some may be on their way when the worker dies of somebody else.
_NUM_TOKENS_ALONE = 6


def given_sequences(job: GenerateJob) -> tuple[NewSequence, ...]:
    """The sequences of a job, for checking: they have no names yet."""
    return tuple(NewSequence(0, start.choice, unpack_u32(start.output_ids)) for start in job.sequences)


def new_sequences(request: HeldRequest) -> tuple[NewSequence, ...]:
    """The sequences of a held request, by the names of its streams."""
    return tuple(
        NewSequence(stream.sequence_id, stream.choice, unpack_u32(stream.given_ids))
        for stream in request.streams.values()
    )


def generation_request(
    job: GenerateJob, sequences: tuple[NewSequence, ...], arrival_ns: int | None = None
) -> GenerationRequest:
    """A job as the engine takes it."""
    return GenerationRequest(
        key=job.key,
        prompt_ids=job.prompt_ids,
        sampling=job.sampling,
        sequences=sequences,
        arrival_ns=arrival_ns,
        is_suspect=job.is_suspect,
        num_tokens_alone=_NUM_TOKENS_ALONE if job.is_suspect and job.num_crashes > 1 else 0,
    )
