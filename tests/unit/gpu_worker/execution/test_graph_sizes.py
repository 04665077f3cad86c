"""Which sizes are recorded, and which one a step takes."""

import pytest

from gpu_worker.execution.graphs import decode_sizes, mixed_sizes, next_size


@pytest.mark.parametrize("largest", [1, 3, 16, 100, 256, 300, 512])
def test_every_batch_up_to_the_largest_has_a_graph_that_is_not_much_larger(largest: int) -> None:
    sizes = decode_sizes(largest)
    assert sizes[-1] == largest
    for wanted in range(1, largest + 1):
        size = next_size(sizes, wanted)
        assert size is not None
        assert wanted <= size < max(2 * wanted, wanted + 33)
    assert next_size(sizes, largest + 1) is None


def test_steps_with_prefills_are_padded_by_half_at_most() -> None:
    sizes = mixed_sizes(4096)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 4096
    for wanted in range(32, 4097):
        size = next_size(sizes, wanted)
        assert size is not None
        assert size <= wanted * 1.5


def test_a_small_limit_records_only_what_it_allows() -> None:
    assert mixed_sizes(50) == [16, 32, 48]
    assert mixed_sizes(0) == []
