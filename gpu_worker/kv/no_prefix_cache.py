"""The prefix cache of a worker that was told to have none: pages are free as soon as nobody holds them."""

from array import array

from gpu_worker.kv.page_pool import PagePool


class NoPrefixCache:
    """Never matches, never keeps."""

    is_sharing = False
    num_evictable = 0

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool

    def match(self, token_ids: "array[int]", max_tokens: int) -> list[int]:
        return []

    def lock(self, page_ids: list[int]) -> None:
        self._pool.retain(page_ids)

    def unlock(self, page_table: "array[int]") -> None:
        for page_id in page_table:
            self._pool.release(page_id)

    def insert(self, token_ids: "array[int]", page_table: "array[int]", num_tokens: int) -> int:
        """Keeps nothing: the pages stay the caller's alone."""
        return len(page_table)

    def evict(self, num_pages: int) -> int:
        return 0

    def clear(self) -> int:
        return 0
