"""Tasks that a process cannot do without."""

import asyncio

import pytest

from wire.background import BackgroundTaskError, BackgroundTasks


async def forever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise RuntimeError("broken")


async def nothing() -> None:
    pass


async def test_the_first_failure_ends_what_is_guarded() -> None:
    background = BackgroundTasks()
    other = background.start(forever())
    background.start(fail())
    ended = asyncio.Event()

    async def live() -> None:
        try:
            await forever()
        finally:
            ended.set()

    with pytest.raises(BackgroundTaskError, match="fail") as raised:
        await background.guard(live())
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert ended.is_set()
    await background.stop()
    assert other.cancelled()


async def test_what_ends_by_itself_or_is_cancelled_has_not_failed() -> None:
    background = BackgroundTasks()
    background.start(nothing())
    background.start(forever()).cancel()
    await background.guard(asyncio.sleep(0))
    await background.stop()


async def test_the_error_of_what_is_guarded_is_raised_as_it_is() -> None:
    background = BackgroundTasks()
    background.start(forever())
    with pytest.raises(RuntimeError, match="broken"):
        await background.guard(fail())
    await background.stop()


async def test_who_cancels_the_guard_cancels_what_is_guarded() -> None:
    background = BackgroundTasks()
    live = asyncio.create_task(forever())

    async def main() -> None:
        await live

    guarding = asyncio.create_task(background.guard(main()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    guarding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await guarding
    assert live.cancelled()
