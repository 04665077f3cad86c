"""A page is free exactly when its reference count is zero and it is not cached."""

import pytest

from gpu_worker.kv.page_pool import PagePool


def test_a_new_pool_is_all_free() -> None:
    pool = PagePool(4, 16)
    assert (pool.num_free, pool.num_used, pool.num_cached) == (4, 0, 0)


def test_allocated_pages_are_distinct_and_used() -> None:
    pool = PagePool(4, 16)
    pages = pool.allocate(3)
    assert len(set(pages)) == 3
    assert (pool.num_free, pool.num_used) == (1, 3)


def test_a_page_is_free_only_after_its_last_reference() -> None:
    pool = PagePool(2, 16)
    (page,) = pool.allocate(1)
    pool.retain([page])
    assert pool.release(page) is False
    assert pool.num_free == 1
    assert pool.release(page) is True
    assert pool.num_free == 2


def test_a_cached_page_that_nobody_holds_is_not_free_until_it_is_unmarked() -> None:
    pool = PagePool(2, 16)
    (page,) = pool.allocate(1)
    pool.mark_cached(page)
    pool.release(page)
    assert (pool.num_free, pool.num_used, pool.num_cached) == (1, 0, 1)
    pool.unmark_cached(page)
    assert (pool.num_free, pool.num_used, pool.num_cached) == (2, 0, 0)


def test_a_cached_page_can_be_held_again() -> None:
    pool = PagePool(1, 16)
    (page,) = pool.allocate(1)
    pool.mark_cached(page)
    pool.release(page)
    pool.retain([page])
    assert (pool.num_used, pool.num_cached) == (1, 0)


def test_misuse_is_our_bug_and_asserts() -> None:
    pool = PagePool(1, 16)
    with pytest.raises(AssertionError, match="2 pages wanted, 1 are free"):
        pool.allocate(2)
    with pytest.raises(AssertionError, match="is free"):
        pool.retain([0])
    with pytest.raises(AssertionError, match="no reference"):
        pool.release(0)
    (page,) = pool.allocate(1)
    pool.mark_cached(page)
    with pytest.raises(AssertionError, match="still held"):
        pool.unmark_cached(page)
