"""One suite over both prefix caches, then what only the radix cache does."""

from array import array
from collections.abc import Callable

import pytest

from gpu_worker.kv.no_prefix_cache import NoPrefixCache
from gpu_worker.kv.page_pool import PagePool
from gpu_worker.kv.prefix_cache import PrefixCache
from gpu_worker.kv.radix_prefix_cache import RadixPrefixCache
from tests.unit.gpu_worker.builders import ids

PAGE = 2


@pytest.fixture
def pool() -> PagePool:
    return PagePool(8, PAGE)


@pytest.fixture(params=[RadixPrefixCache, NoPrefixCache])
def cache(request: pytest.FixtureRequest, pool: PagePool) -> PrefixCache:
    make: Callable[[PagePool], PrefixCache] = request.param
    return make(pool)


def compute(cache: PrefixCache, pool: PagePool, *token_ids: int) -> "array[int]":
    """What a sequence does: take cached pages, compute the rest, share them. Returns its page table."""
    tokens = ids(*token_ids)
    cached = cache.match(tokens, len(tokens))
    cache.lock(cached)
    table = array("i", cached + pool.allocate(-(-len(tokens) // PAGE) - len(cached)))
    cache.insert(tokens, table, len(tokens))
    return table


def test_an_empty_cache_matches_nothing(cache: PrefixCache) -> None:
    assert cache.match(ids(1, 2, 3, 4), 4) == []
    assert cache.num_evictable == 0


def test_held_pages_are_not_evictable(cache: PrefixCache, pool: PagePool) -> None:
    compute(cache, pool, 1, 2, 3, 4)
    assert cache.num_evictable == 0
    assert cache.evict(2) == 0
    assert pool.num_used == 2


def test_everything_is_free_after_unlock_and_clear(cache: PrefixCache, pool: PagePool) -> None:
    for tokens in ((1, 2, 3, 4, 5), (1, 2, 9), (6, 7)):
        cache.unlock(compute(cache, pool, *tokens))
    cache.clear()
    assert pool.num_free == 8


def test_pages_that_nobody_holds_can_all_be_allocated_again(cache: PrefixCache, pool: PagePool) -> None:
    cache.unlock(compute(cache, pool, *range(16)))
    assert pool.num_free + cache.num_evictable == 8
    cache.evict(8 - pool.num_free)
    assert len(pool.allocate(8)) == 8


@pytest.fixture
def radix(pool: PagePool) -> RadixPrefixCache:
    return RadixPrefixCache(pool)


def test_a_prefix_is_matched_page_by_page(radix: RadixPrefixCache, pool: PagePool) -> None:
    table = compute(radix, pool, 1, 2, 3, 4, 5)
    assert radix.match(ids(1, 2, 3, 4, 5, 6), 6) == list(table[:2])
    assert radix.match(ids(1, 2, 3, 9), 4) == list(table[:1])
    assert radix.match(ids(1, 9, 3, 4), 4) == []


def test_a_match_stays_within_its_limit(radix: RadixPrefixCache, pool: PagePool) -> None:
    table = compute(radix, pool, 1, 2, 3, 4)
    assert radix.match(ids(1, 2, 3, 4), 3) == list(table[:1])
    assert radix.match(ids(1, 2, 3, 4), 1) == []


def test_a_page_that_is_not_full_is_not_cached(radix: RadixPrefixCache, pool: PagePool) -> None:
    radix.unlock(compute(radix, pool, 1, 2, 3))
    assert pool.num_cached == 1


def test_sharers_hold_the_same_page(radix: RadixPrefixCache, pool: PagePool) -> None:
    first, second = compute(radix, pool, 1, 2, 3, 4), compute(radix, pool, 1, 2, 5, 6)
    assert first[0] == second[0]
    assert pool.references(first[0]) == 2
    assert pool.num_used == 3


def test_a_duplicate_is_exchanged_for_the_cached_page(radix: RadixPrefixCache, pool: PagePool) -> None:
    first = compute(radix, pool, 1, 2)
    twin = array("i", pool.allocate(1))
    radix.insert(ids(1, 2), twin, 2)
    assert twin == first
    assert pool.num_used == 1


def test_the_least_recently_used_leaf_goes_first(radix: RadixPrefixCache, pool: PagePool) -> None:
    old, new = compute(radix, pool, 1, 2), compute(radix, pool, 3, 4)
    radix.unlock(new)
    radix.unlock(old)
    radix.lock(radix.match(ids(3, 4), 2))
    radix.unlock(new)
    radix.evict(1)
    assert radix.match(ids(1, 2), 2) == []
    assert radix.match(ids(3, 4), 2) == list(new)


def test_a_branch_is_evicted_from_its_end(radix: RadixPrefixCache, pool: PagePool) -> None:
    table = compute(radix, pool, 1, 2, 3, 4, 5, 6)
    radix.unlock(table)
    assert radix.evict(2) == 2
    assert radix.match(ids(1, 2, 3, 4, 5, 6), 6) == list(table[:1])


def test_an_ancestor_of_a_held_page_stays(radix: RadixPrefixCache, pool: PagePool) -> None:
    radix.unlock(compute(radix, pool, 1, 2, 9, 9))
    held = compute(radix, pool, 1, 2, 3, 4)
    assert radix.evict(8) == 1
    assert radix.match(ids(1, 2, 3, 4), 4) == list(held)


def test_repeated_use_does_not_let_the_eviction_queue_grow(radix: RadixPrefixCache, pool: PagePool) -> None:
    radix.unlock(compute(radix, pool, 1, 2))
    for _ in range(1000):
        pages = radix.match(ids(1, 2), 2)
        radix.lock(pages)
        radix.unlock(array("i", pages))
    assert len(radix._leaves) < 100
    assert radix.evict(1) == 1
