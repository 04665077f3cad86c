"""Who owns which page. Knows no tensors and no sequences.

Invariant: a page is free exactly when its reference count is zero and it is not cached.
"""

from array import array
from collections.abc import Iterable


class PagePool:
    """Reference counts of `num_pages` pages of `page_size` tokens each."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, -1, -1))
        self._references = array("I", bytes(4 * num_pages))
        self._is_cached = bytearray(num_pages)
        self._num_referenced = 0

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Pages that at least one sequence holds."""
        return self._num_referenced

    @property
    def num_cached(self) -> int:
        """Pages that nobody holds and only the prefix cache keeps."""
        return self.num_pages - self._num_referenced - len(self._free)

    def references(self, page_id: int) -> int:
        return self._references[page_id]

    def allocate(self, num_pages: int) -> list[int]:
        """Take free pages with one reference each. The caller has made sure that there are enough."""
        assert num_pages <= len(self._free), f"{num_pages} pages wanted, {len(self._free)} are free"
        page_ids = [self._free.pop() for _ in range(num_pages)]
        for page_id in page_ids:
            self._references[page_id] = 1
        self._num_referenced += num_pages
        return page_ids

    def retain(self, page_ids: Iterable[int]) -> None:
        for page_id in page_ids:
            assert self._references[page_id] or self._is_cached[page_id], f"page {page_id} is free"
            if not self._references[page_id]:
                self._num_referenced += 1
            self._references[page_id] += 1

    def release(self, page_id: int) -> bool:
        """Give one reference back; true if it was the last."""
        assert self._references[page_id], f"page {page_id} has no reference to release"
        self._references[page_id] -= 1
        if self._references[page_id]:
            return False
        self._num_referenced -= 1
        if not self._is_cached[page_id]:
            self._free.append(page_id)
        return True

    def mark_cached(self, page_id: int) -> None:
        assert self._references[page_id], f"page {page_id} was not held when it was cached"
        assert not self._is_cached[page_id], f"page {page_id} is cached already"
        self._is_cached[page_id] = 1

    def unmark_cached(self, page_id: int) -> None:
        """Drop a page that nobody holds from the cache; it is free from here on."""
        assert self._is_cached[page_id], f"page {page_id} is not cached"
        assert not self._references[page_id], f"page {page_id} is still held"
        self._is_cached[page_id] = 0
        self._free.append(page_id)
