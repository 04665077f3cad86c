"""A radix tree over token ids whose edges are whole pages; least recently used leaves are evicted first.

Invariant: who holds a node's page holds the pages of all its ancestors (`insert` exchanges duplicates for the
cached page to keep it so). Therefore every cached page that nobody holds can be evicted, leaf by leaf.
"""

import heapq
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from gpu_worker.kv.page_pool import PagePool


@dataclass(slots=True, eq=False)
class _Node:
    """One cached page. `key` is its token ids as bytes, under which the parent knows it."""

    key: bytes
    page_id: int
    parent: "_Node | None"
    children: "dict[bytes, _Node]" = field(default_factory=dict)
    last_used: int = 0


class RadixPrefixCache:
    """Keeps the pages of finished and running sequences for whoever shares their prefix."""

    is_sharing = True

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._root = _Node(b"", -1, None)
        self._nodes: dict[int, _Node] = {}
        self._clock = 0
        # Leaves that nobody held when they were pushed. An entry is stale, and skipped, when its node has
        # since been used, extended or evicted.
        self._leaves: list[tuple[int, int]] = []

    @property
    def num_evictable(self) -> int:
        return self._pool.num_cached

    def match(self, token_ids: "array[int]", max_tokens: int) -> list[int]:
        node, page_ids = self._root, []
        for key in self._page_keys(token_ids, max_tokens):
            child = node.children.get(key)
            if child is None:
                break
            page_ids.append(child.page_id)
            node = child
        return page_ids

    def lock(self, page_ids: list[int]) -> None:
        self._pool.retain(page_ids)

    def unlock(self, page_table: "array[int]") -> None:
        self._clock += 1
        for page_id in page_table:
            if self._pool.release(page_id) and page_id in self._nodes:
                self._rest(self._nodes[page_id], self._clock)

    def insert(self, token_ids: "array[int]", page_table: "array[int]", num_tokens: int) -> int:
        node, num_kept = self._root, len(page_table)
        for index, key in enumerate(self._page_keys(token_ids, num_tokens)):
            child = node.children.get(key)
            if child is None:
                child = self._add(node, key, page_table[index])
            elif child.page_id != page_table[index]:
                self._pool.retain((child.page_id,))
                self._pool.release(page_table[index])
                page_table[index] = child.page_id
                num_kept = min(num_kept, index)
            node = child
        return num_kept

    def evict(self, num_pages: int) -> int:
        num_evicted = 0
        while num_evicted < num_pages and self._leaves:
            last_used, page_id = heapq.heappop(self._leaves)
            node = self._nodes.get(page_id)
            if node is not None and node.last_used == last_used and self._is_evictable(node):
                self._remove(node)
                num_evicted += 1
        return num_evicted

    def clear(self) -> int:
        return self.evict(self._pool.num_pages)

    def _page_keys(self, token_ids: "array[int]", max_tokens: int) -> Iterator[bytes]:
        """One by one, since a search ends at the first that is not there."""
        size = self._pool.page_size
        num_pages = min(max_tokens, len(token_ids)) // size
        data, width = token_ids[: num_pages * size].tobytes(), size * token_ids.itemsize
        return (data[start : start + width] for start in range(0, len(data), width))

    def _add(self, parent: _Node, key: bytes, page_id: int) -> _Node:
        self._pool.mark_cached(page_id)
        node = parent.children[key] = self._nodes[page_id] = _Node(key, page_id, parent)
        return node

    def _remove(self, node: _Node) -> None:
        parent = node.parent
        assert parent is not None, "the root is not evicted"
        del parent.children[node.key], self._nodes[node.page_id]
        self._pool.unmark_cached(node.page_id)
        if parent is not self._root:
            self._rest(parent, parent.last_used)

    def _is_evictable(self, node: _Node) -> bool:
        return not node.children and not self._pool.references(node.page_id)

    def _rest(self, node: _Node, last_used: int) -> None:
        """Note when a node was last held, and queue it for eviction if it is a leaf."""
        node.last_used = last_used
        if not self._is_evictable(node):
            return
        heapq.heappush(self._leaves, (last_used, node.page_id))
        if len(self._leaves) > 2 * len(self._nodes) + 64:
            self._leaves = [(n.last_used, n.page_id) for n in self._nodes.values() if self._is_evictable(n)]
            heapq.heapify(self._leaves)
