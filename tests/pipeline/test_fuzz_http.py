"""Requests made from the OpenAPI page, right and wrong, to every route of a running system: none is answered by 5xx."""

from collections import Counter
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation, BaseSchema

from tests.pipeline.system import System, running_system

EXAMPLES_PER_OPERATION = 40
CONTEXT_LENGTH = 64  # so that the longest answer is short


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    short = {"context_length": CONTEXT_LENGTH}
    with running_system(tmp_path_factory.mktemp("http"), worker=short, tokenizer=short) as running:
        yield running


@pytest.fixture(scope="module")
def page(system: System) -> BaseSchema:
    """The page as this system serves it."""
    return schemathesis.openapi.from_dict(requests.get(f"{system.url}/openapi.json", timeout=60).json())


def operations_of(page: BaseSchema, mode: GenerationMode) -> Iterator[APIOperation]:
    """Every operation; for wrong requests, those that take anything which could be wrong."""
    for result in page.get_all_operations():
        operation = result.ok()
        if mode is GenerationMode.POSITIVE or operation.body or operation.query:
            yield operation


@pytest.mark.parametrize("mode", GenerationMode)
def test_no_request_to_any_route_is_the_servers_fault(system: System, page: BaseSchema, mode: GenerationMode) -> None:
    num_by_status: Counter[int] = Counter()

    def assert_answered(case: Case) -> None:
        response = case.call(base_url=system.url, timeout=60)
        num_by_status[response.status_code] += 1
        assert response.status_code < 500, f"{case.as_curl_command()}\n{response.text}"

    limits = settings(
        max_examples=EXAMPLES_PER_OPERATION,
        deadline=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    for operation in operations_of(page, mode):
        limits(given(operation.as_strategy(generation_mode=mode))(assert_answered))()
    assert num_by_status[200 if mode is GenerationMode.POSITIVE else 400] >= EXAMPLES_PER_OPERATION
    system.at_rest()
