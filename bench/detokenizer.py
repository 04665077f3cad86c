"""How many tokens per second of CPU does one detokenizer turn to text? From the bytes of a `TokenBatch` to the bytes
of a `TextBatch`, 256 streams with a token each per batch; the broker is not part of it."""

import argparse
import random
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry

from detokenizer_svc.attempts import AttemptTable
from detokenizer_svc.batch_run import BatchProcessor
from detokenizer_svc.hop_metrics import DetokenizerMetrics
from detokenizer_svc.hop_spans import HopSpans
from detokenizer_svc.tokenizer_file import find_tokenizer_file, load_vocabulary
from detokenizer_svc.vocabulary import Vocabulary
from wire.codec import decode, encode
from wire.columns import pack_u32
from wire.messages import Message, Peer, Stage, StreamOpen, StreamSettings, TokenBatch
from wire.telemetry import Tracing

GATEWAY, WORKER, ME = Peer("gateway", 1), Peer("worker", 1), Peer("detokenizer", 1)
STOP_STRINGS = {"no stop strings": (), "two stop strings": ("\n\nUser:", "<<<")}


def processor(vocabulary: Vocabulary) -> BatchProcessor:
    """What the service builds, without a bus."""
    tracing = Tracing("", 1.0, Stage.DETOKENIZER, ME.instance_id)
    table = AttemptTable(HopSpans(tracing, "bench", "bench"))
    return BatchProcessor(lambda: ME, vocabulary, table, DetokenizerMetrics(CollectorRegistry()), 4 << 20)


def opening(num_streams: int, stop: tuple[str, ...]) -> TokenBatch:
    """The batch that opens every stream."""
    settings = StreamSettings(gateway=GATEWAY, request_id="bench", prompt_tail=b"", num_sequences=1, stop=stop)
    opens = tuple(StreamOpen(stream_id=n, key=n + 1, choice=0, settings=settings) for n in range(num_streams))
    return TokenBatch(
        worker=WORKER, batch_seq=1, stream_ids=b"", first_indexes=b"", counts=b"", token_ids=b"", opens=opens
    )


def encoded_steps(num_streams: int, num_steps: int, vocab_size: int) -> Iterator[bytes]:
    """One batch per step with a random token for every stream."""
    rng = random.Random(1)
    stream_ids, counts = pack_u32(range(num_streams)), pack_u32([1] * num_streams)
    for step in range(num_steps):
        batch = TokenBatch(
            worker=WORKER,
            batch_seq=step + 2,
            stream_ids=stream_ids,
            first_indexes=pack_u32([step] * num_streams),
            counts=counts,
            token_ids=pack_u32(rng.choices(range(vocab_size), k=num_streams)),
        )
        yield encode(batch)


def cpu_seconds(work: BatchProcessor, steps: list[bytes]) -> float:
    """The CPU time of everything between the two sockets."""
    begin = time.process_time()
    for raw in steps:
        message: Message = decode(raw)
        assert isinstance(message, TokenBatch)
        for _, text_batch in work.process(message, time.time_ns()).texts:
            encode(text_batch)
    return time.process_time() - begin


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-path", default="demo")
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    vocabulary = load_vocabulary(find_tokenizer_file(arguments.model_path, None))
    steps = list(encoded_steps(arguments.streams, arguments.steps, vocabulary.size))
    print("| stop strings | tokens per second of CPU | µs per token |\n|---|---|---|")
    for name, stop in STOP_STRINGS.items():
        work = processor(vocabulary)
        work.process(opening(arguments.streams, stop), 0)
        seconds = cpu_seconds(work, steps) / (arguments.streams * arguments.steps)
        print(f"| {name} | {1 / seconds:,.0f} | {seconds * 1e6:.2f} |")


if __name__ == "__main__":
    main()
