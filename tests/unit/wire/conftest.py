"""A bus that a test may have, on the broker of the whole run."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
from prometheus_client import CollectorRegistry

from wire.bus import Bus
from wire.login import BusOptions
from wire.metrics import BusMetrics

ConnectBus = Callable[..., Awaitable[Bus]]


async def connect(url: str, registry: CollectorRegistry | None = None) -> Bus:
    """A bus with counters of its own, unless a registry is given."""
    return await Bus.connect(BusOptions(url=url), "test", BusMetrics(registry or CollectorRegistry()))


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """For what configures logging: afterwards it is as before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def registry() -> CollectorRegistry:
    """Where the counters of the buses under test are."""
    return CollectorRegistry()


@pytest.fixture
async def bus(nats_url: str, registry: CollectorRegistry) -> AsyncIterator[Bus]:
    """The bus under test."""
    async with AsyncExitStack() as stack:
        connected = await connect(nats_url, registry)
        stack.push_async_callback(connected.close)
        yield connected


@pytest.fixture
async def other_bus(nats_url: str) -> AsyncIterator[Bus]:
    """Another process's bus."""
    async with AsyncExitStack() as stack:
        connected = await connect(nats_url)
        stack.push_async_callback(connected.close)
        yield connected
