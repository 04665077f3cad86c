"""How fast is this machine? One hop over the broker between two processes, idle: the unit of every latency here.

`measure_hop_ms(url)` is half a round trip, p50; `python -m bench.hop URL` is the process that answers.
"""

import asyncio
import statistics
import subprocess
import sys
import time

import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

_SUBJECT = "bench.hop"
_NUM_TRIPS = 1000
_PAUSE_S = 0.002  # as between the steps of an engine: a busy loop would keep the processor awake


async def _answer(url: str) -> None:
    client = Client()
    await client.connect(url)

    async def reply(message: Msg) -> None:
        await client.publish(message.reply, message.data)

    await client.subscribe(_SUBJECT, cb=reply)
    await client.flush()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _measure(url: str) -> float:
    client, returned = Client(), asyncio.Event()
    await client.connect(url)

    async def note(_: Msg) -> None:
        returned.set()

    inbox = client.new_inbox()
    await client.subscribe(inbox, cb=note)
    await client.flush()
    trips = []
    for _ in range(_NUM_TRIPS):
        returned.clear()
        asked = time.perf_counter()
        await client.publish(_SUBJECT, b"x" * 50, reply=inbox)
        await returned.wait()
        trips.append(time.perf_counter() - asked)
        await asyncio.sleep(_PAUSE_S)
    await client.close()
    return statistics.median(trips) / 2 * 1e3


def measure_hop_ms(url: str) -> float:
    """Half a round trip between two processes over the broker at `url`, in ms, p50."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.hop", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as answering:
        assert answering.stdout is not None
        answering.stdout.readline()
        return uvloop.run(_measure(url))


if __name__ == "__main__":
    uvloop.run(_answer(sys.argv[1]))
