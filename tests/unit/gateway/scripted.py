"""The other stages as a gateway meets them: real connections to a real broker, and answers by script."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from wire import subjects
from wire.bus import Delivery
from wire.columns import pack_f32, pack_u8, pack_u32, pack_u64, unpack_u32
from wire.messages import (
    Abort,
    Describe,
    Description,
    Detokenize,
    DetokenizeReply,
    Dispatched,
    FinishReason,
    FlushCache,
    FlushCacheReply,
    Heartbeat,
    InstanceState,
    LogprobTexts,
    Message,
    Progress,
    Reattach,
    Released,
    RequestState,
    Stage,
    StreamStart,
    TextBatch,
    TextFinish,
    TextPrompt,
    Tokenize,
    TokenizeJob,
    TokenizeReply,
    TokensPrompt,
)
from wire.node import Node
from wire.settings import CommonSettings

FINGERPRINT = "f1"
CONTEXT_LENGTH = 512
CACHED_TOKENS = 2


def word(index: int) -> str:
    """The text of output token `index`: what the scripted model always says."""
    return f"w{index} "


def text_of(num_tokens: int) -> str:
    """The whole text of an output."""
    return "".join(map(word, range(num_tokens)))


class ScriptedStage:
    """One instance: it is present, answers questions, and notes the aborts that it gets.

    A worker that `holds_sequences` accepts re-attachments, and leaves it to the test to send what follows.
    """

    def __init__(self, node: Node, beat: dict[str, Any]) -> None:
        self.node = node
        self.presence = node.presence(self._heartbeat)
        self.aborts: asyncio.Queue[Abort] = asyncio.Queue()
        self.reattachments: asyncio.Queue[Reattach] = asyncio.Queue()
        self.holds_sequences = False
        self._beat = beat

    @classmethod
    async def join(cls, nats_url: str, stage: Stage, model: str, **beat: Any) -> "ScriptedStage":
        """Connected, ready, seen by everybody; `beat` are further fields of its heartbeats."""
        node = await Node.connect(CommonSettings(nats_url=nats_url), stage, model)
        node.instance.state = InstanceState.READY
        peer = cls(node, beat)
        key = node.instance.model_key
        await node.control.subscribe(subjects.control(key, stage, node.instance.instance_id), peer._on_abort)
        await node.control.subscribe(subjects.abort(key), peer._on_abort)
        await node.data.subscribe(subjects.rpc(key, stage, node.instance.instance_id), peer._on_question)
        await node.data.flush()
        await peer.presence.start()
        return peer

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            stage=self.node.instance.stage,
            peer=self.node.instance.peer,
            state=self.node.instance.state,
            served_model_name=self.node.instance.served_model_name,
            wire_level=1,
            context_length=CONTEXT_LENGTH,
            **self._beat,
        )

    async def beat(self, **fields: Any) -> None:
        """A heartbeat now; it and all that follow say this."""
        self._beat |= fields
        await self.presence.announce()

    async def leave(self) -> None:
        """Says goodbye and disconnects; may be repeated."""
        if self.node.instance.state is InstanceState.LEAVING:
            return
        self.node.instance.state = InstanceState.LEAVING
        await self.presence.announce()
        await self.presence.stop()
        await self.node.close()

    async def report(
        self, gateway_id: str, key: int, state: RequestState, num_tokens: int, *, is_receipt: bool = False
    ) -> None:
        """One `Progress` about one key; key 0 names none."""
        keys = [key] if key else []
        progress = Progress(
            sender=self.node.instance.peer,
            keys=pack_u64(keys),
            states=pack_u8([state] * len(keys)),
            queue_positions=pack_u32([0] * len(keys)),
            num_output_tokens=pack_u32([num_tokens] * len(keys)),
            is_receipt=is_receipt,
        )
        await self.node.control.publish(subjects.gateway(gateway_id), progress)

    async def _on_abort(self, message: Message, _: Delivery) -> None:
        if isinstance(message, Abort):
            self.aborts.put_nowait(message)
        elif isinstance(message, Reattach):
            gateway_id = message.sender.instance_id
            if self.holds_sequences:
                await self.report(gateway_id, message.new_key, RequestState.RUNNING, 0, is_receipt=True)
            else:
                released = Released(self.node.instance.peer, pack_u64([message.new_key]), "not held")
                await self.node.control.publish(subjects.gateway(gateway_id), released)
            self.reattachments.put_nowait(message)

    async def _on_question(self, message: Message, delivery: Delivery) -> None:
        reply: Message | None = None
        match message:
            case Tokenize():
                columns = tuple(pack_u32(map(ord, p.text)) for p in message.prompts if isinstance(p, TextPrompt))
                reply = TokenizeReply(columns or (pack_u32([7, 8, 9]),), CONTEXT_LENGTH)
            case Detokenize():
                reply = DetokenizeReply(tuple("".join(map(chr, unpack_u32(c))) for c in message.token_ids))
            case Describe():
                reply = Description(
                    settings={"device": "none", "tokenizer_path": None, "max_running_requests": 7},
                    model={"model_type": "scripted", "tokenizer_path": "resolved"},
                    stats={"step": 1, "max_total_num_tokens": 900},
                )
            case FlushCache():
                reply = FlushCacheReply(is_flushed=True)
        if reply is not None:
            await self.node.data.publish(delivery.reply_to, reply)


Script = Callable[["ScriptedPipeline", TokenizeJob], Awaitable[None]]


class ScriptedPipeline:
    """A tokenizer, a worker and a detokenizer; `script` decides what happens to each job, `jobs` keeps them all."""

    def __init__(self, tokenizer: ScriptedStage, worker: ScriptedStage, detokenizer: ScriptedStage) -> None:
        self.tokenizer = tokenizer
        self.worker = worker
        self.detokenizer = detokenizer
        self.script: Script = answer_all
        self.jobs: list[TokenizeJob] = []
        self.headers: list[dict[str, str]] = []
        self.job_arrived: asyncio.Queue[TokenizeJob] = asyncio.Queue()

    @classmethod
    async def join(cls, nats_url: str, model: str, worker_beat: dict[str, Any]) -> "ScriptedPipeline":
        """One instance of each stage, ready."""
        tokenizer = await ScriptedStage.join(nats_url, Stage.TOKENIZER, model)
        worker = await ScriptedStage.join(nats_url, Stage.WORKER, model, **worker_beat)
        pipeline = cls(tokenizer, worker, await ScriptedStage.join(nats_url, Stage.DETOKENIZER, model))
        instance = pipeline.tokenizer.node.instance
        subject = subjects.data(instance.model_key, Stage.TOKENIZER, instance.instance_id)
        await pipeline.tokenizer.node.data.subscribe(subject, pipeline._on_job)
        await pipeline.tokenizer.node.data.flush()
        return pipeline

    async def leave(self) -> None:
        """All three go."""
        for stage in (self.tokenizer, self.worker, self.detokenizer):
            await stage.leave()

    async def accept(self, job: TokenizeJob) -> None:
        """What a job gets before its first token: receipts of tokenizer and worker, and `Dispatched`."""
        gateway_id = job.gateway.instance_id
        await self.tokenizer.report(gateway_id, job.key, RequestState.QUEUED, 0, is_receipt=True)
        dispatched = Dispatched(
            key=job.key,
            tokenizer=self.tokenizer.node.instance.peer,
            worker=self.worker.node.instance.peer,
            prompt_ids=prompt_ids(job),
            sampling=job.sampling,
            model_fingerprint=FINGERPRINT,
        )
        await self.tell(job, dispatched)
        await self.worker.report(gateway_id, job.key, RequestState.QUEUED, 0, is_receipt=True)

    async def tell(self, job: TokenizeJob, message: Message) -> None:
        """Sends to the job's gateway, all on one connection: what a script says arrives in the order of the script."""
        await self.detokenizer.node.data.publish(subjects.gateway(job.gateway.instance_id), message)

    async def send(
        self, job: TokenizeJob, rows: list[tuple[int, int, int]], *, finish: FinishReason | None = None
    ) -> None:
        """One batch; each row is (choice, first index, number of tokens). `finish` ends every row's choice."""
        indexes = [list(range(first, first + count)) for _, first, count in rows]
        prompt_len = len(prompt_ids(job)) // 4
        now = (0, 0, 0, 0, 0)
        finishes = tuple(
            TextFinish(row, finish, None, prompt_len, first + count, CACHED_TOKENS, *now)
            for row, (_, first, count) in enumerate(rows)
            if finish is not None
        )
        batch = TextBatch(
            detokenizer=self.detokenizer.node.instance.peer,
            worker=self.worker.node.instance.peer,
            keys=pack_u64([job.key] * len(rows)),
            choices=pack_u32(choice for choice, _, _ in rows),
            first_indexes=pack_u32(first for _, first, _ in rows),
            counts=pack_u32(count for _, _, count in rows),
            token_ids=pack_u32(1000 + index for row in indexes for index in row),
            text_offsets=pack_u32(len(text_of(first)) for _, first, _ in rows),
            texts=["".join(map(word, row)) for row in indexes],
            starts=tuple(StreamStart(row, prompt_len, CACHED_TOKENS) for row in range(len(rows))),
            finishes=finishes,
            logprobs=_logprobs(job, indexes) if job.sampling.return_logprob else None,
        )
        await self.tell(job, batch)

    async def _on_job(self, message: Message, delivery: Delivery) -> None:
        if isinstance(message, TokenizeJob):
            self.jobs.append(message)
            self.headers.append(delivery.headers)
            self.job_arrived.put_nowait(message)
            await self.script(self, message)


async def answer_all(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
    """Accepts and generates every token at once, one batch per token."""
    await pipeline.accept(job)
    await generate(pipeline, job)


async def generate(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
    """Every missing token of every sequence, then the finish."""
    total = job.sampling.max_new_tokens if job.sampling.max_new_tokens is not None else 5
    starts = {start.choice: len(start.output_ids) // 4 for start in job.sequences}
    for index in range(min(starts.values()), total - 1):
        rows = [(choice, index, 1) for choice, first in starts.items() if first <= index]
        await pipeline.send(job, rows)
    last = [(choice, max(first, total - 1), min(1, total - first)) for choice, first in starts.items()]
    await pipeline.send(job, last, finish=FinishReason.LENGTH)


async def accept_only(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
    """Accepts; the test sends the tokens."""
    await pipeline.accept(job)


async def begin(pipeline: ScriptedPipeline, job: TokenizeJob) -> None:
    """Accepts and sends the first missing token of every sequence; the test sends the others."""
    await pipeline.accept(job)
    await pipeline.send(job, [(start.choice, len(start.output_ids) // 4, 1) for start in job.sequences])


async def ignore(_: ScriptedPipeline, __: TokenizeJob) -> None:
    """A stage that is alive and deaf."""


def prompt_ids(job: TokenizeJob) -> bytes:
    """The column of a prompt's ids: the code points of a text, 7 8 9 for a chat."""
    if isinstance(job.prompt, TokensPrompt):
        return job.prompt.token_ids
    return pack_u32(map(ord, job.prompt.text)) if isinstance(job.prompt, TextPrompt) else pack_u32([7, 8, 9])


def _logprobs(job: TokenizeJob, indexes: list[list[int]]) -> LogprobTexts:
    flat = [index for row in indexes for index in row]
    num_top = job.sampling.top_logprobs_num
    return LogprobTexts(
        rows=pack_u32(range(len(indexes))),
        chosen=pack_f32(-float(index) for index in flat),
        texts=[word(index).encode() for index in flat],
        num_top=pack_u32([num_top] * len(indexes)),
        top_ids=pack_u32(1000 + index + rank for index in flat for rank in range(num_top)),
        top=pack_f32(-float(index + rank) for index in flat for rank in range(num_top)),
        top_texts=[word(index + rank).encode() for index in flat for rank in range(num_top)],
    )
