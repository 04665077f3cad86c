"""What holds the streams back before a fault during which nothing new may begin."""

import asyncio


class Gate:
    """Open at first. Whoever waits when it opens passes only if it is still open when its turn comes."""

    def __init__(self) -> None:
        self._is_open = asyncio.Event()
        self._is_open.set()

    async def passed(self) -> None:
        """Returns while the gate is open."""
        while not self._is_open.is_set():  # an event wakes who waits even if it is cleared again at once
            await self._is_open.wait()

    def open(self) -> None:
        """Lets all pass."""
        self._is_open.set()

    def close(self) -> None:
        """Nobody passes from now on."""
        self._is_open.clear()
