"""Documents as token ids, packed into rows for training. Knows no model."""

import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from launcher.demo.training.conversations import Document, document

IGNORED = -100
TOKENS_PER_BATCH = 65_536

# Row length and share of the documents. Short rows put many documents at position 0, as a server does; long
# rows teach the model to answer far into a context.
ROW_LENGTHS: tuple[tuple[int, float], ...] = ((256, 0.35), (1024, 0.4), (4096, 0.25))


@dataclass(frozen=True, slots=True)
class Corpus:
    """Token ids of all documents in a row, whether each is learned, and the documents' lengths."""

    token_ids: torch.Tensor
    is_learned: torch.Tensor
    lengths: torch.Tensor

    def to(self, device: torch.device) -> "Corpus":
        """The corpus with its tokens on a device; the lengths stay where the packing happens."""
        return Corpus(self.token_ids.to(device), self.is_learned.to(device), self.lengths)


def make_corpus(tokenizer: Tokenizer, seed: int, num_shards: int, shard_size: int) -> Corpus:
    """Make up and encode `num_shards * shard_size` documents, the same ones for the same numbers."""
    serialized = tokenizer.to_str()
    seeds = [seed * 1_000_003 + shard for shard in range(num_shards)]
    with ProcessPoolExecutor(min(num_shards, os.cpu_count() or 1)) as pool:
        shards = list(pool.map(_make_shard, [serialized] * num_shards, seeds, [shard_size] * num_shards))
    return Corpus(
        torch.cat([shard.token_ids for shard in shards]),
        torch.cat([shard.is_learned for shard in shards]),
        torch.cat([shard.lengths for shard in shards]),
    )


def _make_shard(serialized: str, seed: int, num_documents: int) -> Corpus:
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_str(serialized)
    rng = random.Random(seed)
    token_ids: list[int] = []
    is_learned: list[bool] = []
    lengths: list[int] = []
    for _ in range(num_documents):
        ids, learned = encode(tokenizer, document(rng))
        token_ids += ids
        is_learned += learned
        lengths.append(len(ids))
    return Corpus(torch.tensor(token_ids, dtype=torch.int32), torch.tensor(is_learned), torch.tensor(lengths))


def encode(tokenizer: Tokenizer, segments: Document) -> tuple[list[int], list[bool]]:
    """The ids of a document, segment by segment, as prompt and answer are encoded when the model is served."""
    token_ids: list[int] = []
    is_learned: list[bool] = []
    for segment in segments:
        ids = tokenizer.encode(segment.text).ids
        token_ids += ids
        is_learned += [segment.is_learned] * len(ids)
    return token_ids, is_learned


def batches(corpus: Corpus, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One round over all documents: (token ids, labels), each [rows, row length], in random order.

    Labels are `IGNORED` where nothing is learned. Documents that fit in no row of their share are left out.
    """
    starts = torch.cumsum(corpus.lengths, 0) - corpus.lengths
    order = torch.randperm(len(corpus.lengths), generator=generator)
    plan: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    begin = 0
    for row_length, share in ROW_LENGTHS:
        end = begin + round(share * len(order))
        sources, num_rows = _pack(corpus, starts, order[begin:end], row_length)
        rows_per_batch = TOKENS_PER_BATCH // row_length
        rows = torch.randperm(num_rows, generator=generator)
        plan += [(row_length, sources, chosen) for chosen in torch.split(rows, rows_per_batch)]
        begin = end
    for index in torch.randperm(len(plan), generator=generator).tolist():
        row_length, sources, chosen = plan[index]
        yield _gather(corpus, sources.view(-1, row_length)[chosen.to(sources.device)])


def _pack(corpus: Corpus, starts: torch.Tensor, chosen: torch.Tensor, row_length: int) -> tuple[torch.Tensor, int]:
    """For every place of the packed rows the index of its token in the corpus, or -1 for padding."""
    chosen = chosen[corpus.lengths[chosen] <= row_length]
    lengths = corpus.lengths[chosen]
    targets, num_rows = _places(lengths.tolist(), row_length)
    within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(torch.cumsum(lengths, 0) - lengths, lengths)
    sources = torch.full((num_rows * row_length,), -1, dtype=torch.int64)
    sources[torch.repeat_interleave(torch.tensor(targets), lengths) + within] = (
        torch.repeat_interleave(starts[chosen], lengths) + within
    )
    return sources.to(corpus.token_ids.device), num_rows


def _places(lengths: list[int], row_length: int) -> tuple[list[int], int]:
    """Where each document begins if none is split over two rows, and the number of rows."""
    places: list[int] = []
    place = 0
    for length in lengths:
        if place % row_length + length > row_length:
            place += row_length - place % row_length
        places.append(place)
        place += length
    return places, -(-place // row_length)


def _gather(corpus: Corpus, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    token_ids = corpus.token_ids[sources.clamp(min=0)].long()
    is_label = corpus.is_learned[sources.clamp(min=0)] & (sources >= 0)
    return token_ids.masked_fill(sources < 0, 0), token_ids.masked_fill(~is_label, IGNORED)
