"""A worker like any other, but that it dies in the step that prefills a certain token, and in one that decodes a
sequence with a certain other: `python -m …fragile_worker`."""

import os

from gpu_worker import plain_build
from gpu_worker.__main__ import main
from gpu_worker.execution.model_runner import Finished, ModelRunner
from gpu_worker.scheduling.batch import Batch, ScheduledSequence

POISON = 777
DECODE_POISON = 779
LAST_WORDS = "poisoned"


class FragileRunner(ModelRunner):
    """Stands for a kernel that crashes on one input."""

    def launch(self, batch: Batch) -> Finished:
        """Ends the process if the poison is among the tokens of this step."""
        decodes, prefills = batch.scheduled[: batch.num_decodes], batch.scheduled[batch.num_decodes :]
        if any(DECODE_POISON in decode.sequence.token_ids for decode in decodes) or any(map(_is_poisoned, prefills)):
            os.write(2, f"\n{LAST_WORDS} {len(batch.scheduled)}\n".encode())  # in one piece: others log too
            os._exit(1)
        return super().launch(batch)


def _is_poisoned(prefill: ScheduledSequence) -> bool:
    begin = prefill.sequence.num_computed_tokens
    return POISON in prefill.sequence.token_ids[begin : begin + prefill.num_scheduled_tokens]


if __name__ == "__main__":
    plain_build.ModelRunner = FragileRunner  # type: ignore[misc]
    main()
