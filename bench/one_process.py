"""The floor for `bench.pipeline`: the same streams from one process, without a bus, a tokenizer or recovery.

`python -m bench.one_process PORT CLOCK_FOLDER`: a bare ASGI app under the same HTTP server that emits a token per
stream and step, paced as the prompts say. It marks what the HTTP server and the client cost by themselves.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

from bench.step_clock import CHARS_PER_TOKEN, INTERVAL_UNIT_S, StepClock

_HEADERS = [(b"content-type", b"text/event-stream")]
_PREFIX = b'data: {"id":"floor","object":"text_completion","choices":[{"index":0,"text":"'
_SUFFIX = b'","logprobs":null,"finish_reason":null}]}\n\n'
_TOKEN = b"abcd"
assert len(_TOKEN) == CHARS_PER_TOKEN

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Floor:
    """All streams of a run, stepped together."""

    def __init__(self, clock: StepClock) -> None:
        self._clock = clock
        self._queues: dict[int, asyncio.Queue[bytes]] = {}
        self._left: dict[int, int] = {}
        self._interval_s = 0.0
        self._stepping: asyncio.Task[None] | None = None

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send
    ) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await self._answer(json.loads(body) if body else {}, send)

    async def _answer(self, request: dict[str, Any], send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        if request:
            run, stream, interval = request["prompt"]
            self._clock.begin_run(run)
            self._interval_s = interval * INTERVAL_UNIT_S
            queue = self._queues[stream] = asyncio.Queue()
            num_left = self._left[stream] = request["max_tokens"]
            if self._stepping is None:
                self._stepping = asyncio.create_task(self._step_forever())
            while num_left:
                events = [await queue.get()]
                while not queue.empty():
                    events.append(queue.get_nowait())
                num_left -= len(events)
                await send({"type": "http.response.body", "body": b"".join(events), "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _step_forever(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while self._left:
            due = max(due, loop.time() - self._interval_s) + self._interval_s
            await asyncio.sleep(max(0.0, due - loop.time()))
            self._clock.begin_step(list(self._left))
            for stream in list(self._left):
                self._queues[stream].put_nowait(_PREFIX + _TOKEN + _SUFFIX)
                self._left[stream] -= 1
                if not self._left[stream]:
                    del self._left[stream]
        self._clock.pause()
        self._stepping = None


if __name__ == "__main__":
    uvicorn.run(Floor(StepClock(Path(sys.argv[2]))), port=int(sys.argv[1]), log_level="warning", loop="uvloop")
