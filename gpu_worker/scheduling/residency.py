"""What sequences hold while they run: pages of the pool, and a row in the tables of a device.

Both are taken at admission, pages also by decodes, and given back at the end or on preemption.
"""

from array import array

from gpu_worker.kv.page_pool import PagePool
from gpu_worker.kv.prefix_cache import PrefixCache
from gpu_worker.scheduling.sequence import Sequence


class Residency:
    """Moves sequences in and out of the page pool, through the prefix cache. Decides nothing about order."""

    def __init__(self, pool: PagePool, cache: PrefixCache, num_rows: int) -> None:
        """`num_rows` is how many sequences run at the same time, at most."""
        self.pool = pool
        self.cache = cache
        self._free_rows = list(range(num_rows - 1, -1, -1))

    @property
    def num_free_rows(self) -> int:
        """How many more sequences can enter, as far as rows are concerned."""
        return len(self._free_rows)

    def enter(self, sequence: Sequence, num_spare_pages: int) -> bool:
        """Give a sequence pages for all its tokens, cached ones first; false if that leaves too few spare pages.

        At least one token stays to be computed, since its logits are needed.
        """
        if self._num_available <= num_spare_pages:  # whoever waits for a page asks in every step, with its whole prompt
            return False
        cached = self.cache.match(sequence.token_ids, sequence.num_tokens - 1)
        self.cache.lock(cached)
        num_new = self._num_pages(sequence.num_tokens) - len(cached)
        if not self._make_room(num_new, num_spare_pages):
            self.cache.unlock(array("i", cached))
            return False
        sequence.page_table = array("i", cached + self.pool.allocate(num_new))
        sequence.num_computed_tokens = len(cached) * self.pool.page_size
        sequence.table_row = self._free_rows.pop()
        sequence.is_on_device, sequence.num_synced_pages = False, 0
        return True

    def grow(self, sequence: Sequence) -> bool:
        """Make sure that there is a slot for the last token; false if no page can be had."""
        if len(sequence.page_table) * self.pool.page_size >= sequence.num_tokens:
            return True
        return self.extend(sequence)

    def extend(self, sequence: Sequence) -> bool:
        """Give a sequence one more page; false if none can be had."""
        if not self._make_room(1, 0):
            return False
        sequence.page_table.extend(self.pool.allocate(1))
        return True

    def share(self, sequence: Sequence) -> None:
        """Let others find the full pages that are computed so far."""
        num_kept = self.cache.insert(sequence.token_ids, sequence.page_table, sequence.num_computed_tokens)
        sequence.num_synced_pages = min(sequence.num_synced_pages, num_kept)

    def leave(self, sequence: Sequence) -> None:
        """Give everything back; what was not shared before is lost."""
        self.cache.unlock(sequence.page_table)
        sequence.page_table = array("i")
        sequence.num_computed_tokens = 0
        self._free_rows.append(sequence.table_row)
        sequence.table_row = -1

    @property
    def _num_available(self) -> int:
        return self.pool.num_free + self.cache.num_evictable

    def _num_pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self.pool.page_size)

    def _make_room(self, num_pages: int, num_spare_pages: int) -> bool:
        if self._num_available < num_pages + num_spare_pages:
            return False
        self.cache.evict(num_pages - self.pool.num_free)
        return True
