"""The pages that sequences hold: taken at admission and by decodes, given back at the end or on preemption."""

from array import array

from gpu_worker.kv.page_pool import PagePool
from gpu_worker.kv.prefix_cache import PrefixCache
from gpu_worker.scheduling.sequence import Sequence


class Residency:
    """Moves sequences in and out of the page pool, through the prefix cache. Decides nothing about order."""

    def __init__(self, pool: PagePool, cache: PrefixCache) -> None:
        self.pool = pool
        self.cache = cache

    def enter(self, sequence: Sequence, num_spare_pages: int) -> bool:
        """Give a sequence pages for all its tokens, cached ones first; false if that leaves too few spare pages.

        At least one token stays to be computed, since its logits are needed.
        """
        cached = self.cache.match(sequence.token_ids, sequence.num_tokens - 1)
        self.cache.lock(cached)
        num_new = self._num_pages(sequence.num_tokens) - len(cached)
        if not self._make_room(num_new, num_spare_pages):
            self.cache.unlock(array("i", cached))
            return False
        sequence.page_table = array("i", cached + self.pool.allocate(num_new))
        sequence.num_computed_tokens = len(cached) * self.pool.page_size
        return True

    def grow(self, sequence: Sequence) -> bool:
        """Make sure that there is a slot for the last token; false if no page can be had."""
        if len(sequence.page_table) * self.pool.page_size >= sequence.num_tokens:
            return True
        if not self._make_room(1, 0):
            return False
        sequence.page_table.extend(self.pool.allocate(1))
        return True

    def share(self, sequence: Sequence) -> None:
        """Let others find the full pages that are computed so far."""
        self.cache.insert(sequence.token_ids, sequence.page_table, sequence.num_computed_tokens)

    def leave(self, sequence: Sequence) -> None:
        """Give all pages back; what was not shared before is lost."""
        self.cache.unlock(sequence.page_table)
        sequence.page_table = array("i")
        sequence.num_computed_tokens = 0

    def _num_pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self.pool.page_size)

    def _make_room(self, num_pages: int, num_spare_pages: int) -> bool:
        if self.pool.num_free + self.cache.num_evictable < num_pages + num_spare_pages:
            return False
        self.cache.evict(num_pages - self.pool.num_free)
        return True
