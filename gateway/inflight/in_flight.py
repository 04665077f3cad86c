"""The generations that this gateway owes an answer, and the key of each one's current attempt."""

from collections.abc import Iterator

from gateway.inflight.generation import Attempt, Generation, Standing


class InFlight:
    """A key leads to its generation exactly while its attempt is current; a stale key leads nowhere.

    `num_standing` counts the sequences of all generations by how far these have come, so that nobody need look at each.
    """

    def __init__(self) -> None:
        self.by_key: dict[int, Generation] = {}
        self.num_standing = dict.fromkeys(Standing, 0)
        self._all: dict[int, Generation] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Generation]:
        """A snapshot, so that the caller may end generations on the way."""
        return iter(list(self._all.values()))

    def admit(self, generation: Generation) -> None:
        """Takes a generation in, before its first attempt."""
        self._all[id(generation)] = generation
        self.num_standing[generation.standing] += len(generation.choices)

    def begin(self, generation: Generation, attempt: Attempt) -> None:
        """Makes `attempt` the current one."""
        generation.attempt = attempt
        generation.num_attempts = attempt.number
        if not attempt.is_reattachment:  # which is about a job that was given out before
            generation.num_elsewhere = sum(len(choice.token_ids) for choice in generation.choices if choice.finish)
        self.by_key[attempt.key] = generation

    def move(self, generation: Generation, standing: Standing) -> None:
        """Notes how far a generation has come; one that is not in flight is ignored."""
        if id(generation) in self._all:
            self.num_standing[generation.standing] -= len(generation.choices)
            self.num_standing[standing] += len(generation.choices)
            generation.standing = standing

    def end_attempt(self, generation: Generation) -> Attempt | None:
        """Retires the current key: from here on its messages are stale."""
        attempt, generation.attempt = generation.attempt, None
        if attempt is not None:
            self.by_key.pop(attempt.key, None)
            generation.is_delivering = False
            self.move(generation, Standing.ON_THE_WAY)
        return attempt

    def remove(self, generation: Generation) -> bool:
        """Forgets a generation that is done; False if it was forgotten already."""
        self.end_attempt(generation)
        is_known = self._all.pop(id(generation), None) is not None
        if is_known:
            self.num_standing[generation.standing] -= len(generation.choices)
        return is_known
