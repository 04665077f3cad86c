"""Aborts that overtake their job are remembered for a minute."""

from wire.tombstones import Tombstones


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_abort_of_a_key_covers_all_its_choices() -> None:
    tombstones = Tombstones()
    tombstones.add(7)
    assert tombstones.covers(7)
    assert tombstones.covers(7, 3)
    assert not tombstones.covers(8)


def test_an_abort_of_one_choice_covers_that_choice_only() -> None:
    tombstones = Tombstones()
    tombstones.add(7, 1)
    assert tombstones.covers(7, 1)
    assert not tombstones.covers(7, 0)
    assert not tombstones.covers(7)


def test_a_tombstone_lasts_its_lifetime_from_the_last_abort_on() -> None:
    clock = Clock()
    tombstones = Tombstones(60.0, clock)
    tombstones.add(7)
    clock.now = 40.0
    tombstones.add(7)
    clock.now = 99.0
    assert tombstones.covers(7)
    clock.now = 100.0
    assert not tombstones.covers(7)


def test_expired_tombstones_take_no_memory() -> None:
    clock = Clock()
    tombstones = Tombstones(60.0, clock)
    tombstones.add(1)
    tombstones.add(2)
    clock.now = 30.0
    tombstones.add(1)
    clock.now = 70.0
    tombstones.add(3)
    assert len(tombstones) == 2
