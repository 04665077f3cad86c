"""What the scheduler asks of a prefix cache. Two implementations: radix and none."""

from array import array
from typing import Protocol


class PrefixCache(Protocol):
    """Finds pages that already hold the KV of a prefix, and keeps pages that nobody holds for later.

    Token ids are `array("I")`, page tables `array("i")`. Sequences hold a page by `lock` and let go by `unlock`;
    only pages that nobody holds are evicted.
    """

    @property
    def is_sharing(self) -> bool:
        """Whether waiting for a sibling's prefill can save work at all."""
        ...

    @property
    def num_evictable(self) -> int:
        """Pages that `evict` could free now."""
        ...

    def match(self, token_ids: "array[int]", max_tokens: int) -> list[int]:
        """Pages, in order, that hold the longest cached prefix of at most `max_tokens` tokens."""
        ...

    def lock(self, page_ids: list[int]) -> None:
        """Hold matched pages, so that they cannot be evicted."""
        ...

    def unlock(self, page_table: "array[int]") -> None:
        """Let go of a whole page table."""
        ...

    def insert(self, token_ids: "array[int]", page_table: "array[int]", num_tokens: int) -> int:
        """Offer the full pages among the first `num_tokens` tokens, which are computed and held by the caller.

        Where the cache already has an equal page, `page_table` is changed in place to hold that one instead. Returns
        how many pages from the first on are as they were.
        """
        ...

    def evict(self, num_pages: int) -> int:
        """Free up to `num_pages` pages that nobody holds, least recently used first; returns how many."""
        ...

    def clear(self) -> int:
        """Evict everything that nobody holds; returns how many pages."""
        ...
