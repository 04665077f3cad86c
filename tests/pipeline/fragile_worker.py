"""A worker like any other, but that it dies in the step that prefills a certain token: `python -m …fragile_worker`."""

import os

from gpu_worker import plain_build
from gpu_worker.__main__ import main
from gpu_worker.execution.model_runner import Finished, ModelRunner
from gpu_worker.scheduling.batch import Batch

POISON = 777
LAST_WORDS = "poisoned"


class FragileRunner(ModelRunner):
    """Stands for a kernel that crashes on one input."""

    def launch(self, batch: Batch) -> Finished:
        """Ends the process if the poison is among the tokens of this step."""
        for scheduled in batch.scheduled:
            begin = scheduled.sequence.num_computed_tokens
            if POISON in scheduled.sequence.token_ids[begin : begin + scheduled.num_scheduled_tokens]:
                os.write(2, f"\n{LAST_WORDS} {len(batch.scheduled)}\n".encode())  # in one piece: others log too
                os._exit(1)
        return super().launch(batch)


if __name__ == "__main__":
    plain_build.ModelRunner = FragileRunner  # type: ignore[misc]
    main()
