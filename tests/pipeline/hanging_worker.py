"""A worker like any other, but that the first of its kind hangs in the step that prefills a certain token.

`python -m …hanging_worker`; the file that `HANGING_WORKER_MARK` names tells the others that one hangs already.
"""

import os
import threading

from gpu_worker import plain_build
from gpu_worker.__main__ import main
from gpu_worker.execution.model_runner import Finished, ModelRunner
from gpu_worker.scheduling.batch import Batch

HANGS_AT = 778
MARK = "HANGING_WORKER_MARK"


class HangingRunner(ModelRunner):
    """Stands for a kernel that never returns; the process lives, and its heartbeats go on."""

    def launch(self, batch: Batch) -> Finished:
        """Waits for ever, once."""
        for scheduled in batch.scheduled:
            begin = scheduled.sequence.num_computed_tokens
            if HANGS_AT in scheduled.sequence.token_ids[begin : begin + scheduled.num_scheduled_tokens] and _is_first():
                threading.Event().wait()
        return super().launch(batch)


def _is_first() -> bool:
    try:
        os.close(os.open(os.environ[MARK], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    plain_build.ModelRunner = HangingRunner  # type: ignore[misc]
    main()
