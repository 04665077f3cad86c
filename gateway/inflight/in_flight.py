"""The generations that this gateway owes an answer, and the key of each one's current attempt."""

from collections.abc import Iterator

from gateway.inflight.generation import Attempt, Generation


class InFlight:
    """A key leads to its generation exactly while its attempt is current; a stale key leads nowhere."""

    def __init__(self) -> None:
        self.by_key: dict[int, Generation] = {}
        self._all: dict[int, Generation] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Generation]:
        """A snapshot, so that the caller may end generations on the way."""
        return iter(list(self._all.values()))

    def admit(self, generation: Generation) -> None:
        """Takes a generation in, before its first attempt."""
        self._all[id(generation)] = generation

    def begin(self, generation: Generation, attempt: Attempt) -> None:
        """Makes `attempt` the current one."""
        generation.attempt = attempt
        generation.num_attempts = attempt.number
        self.by_key[attempt.key] = generation

    def end_attempt(self, generation: Generation) -> Attempt | None:
        """Retires the current key: from here on its messages are stale."""
        attempt, generation.attempt = generation.attempt, None
        if attempt is not None:
            self.by_key.pop(attempt.key, None)
        return attempt

    def remove(self, generation: Generation) -> bool:
        """Forgets a generation that is done; False if it was forgotten already."""
        self.end_attempt(generation)
        return self._all.pop(id(generation), None) is not None
