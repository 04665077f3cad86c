"""What the engine is asked to do with a job."""

import msgspec
import pytest

from gpu_worker.engine_requests import generation_request
from tests.unit.gpu_worker.bus_peers import job


@pytest.mark.parametrize(
    ("num_crashes", "is_suspect", "begins_alone"), [(1, True, False), (2, True, True), (1, False, False)]
)
def test_who_is_a_suspect_once_more_begins_its_decodes_alone(
    *, num_crashes: int, is_suspect: bool, begins_alone: bool
) -> None:
    asked = generation_request(msgspec.structs.replace(job(1), num_crashes=num_crashes, is_suspect=is_suspect), ())

    assert asked.is_suspect == is_suspect
    assert (asked.num_tokens_alone > 0) == begins_alone
