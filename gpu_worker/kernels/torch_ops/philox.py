"""Philox4x32-10, the counter-based generator of Salmon et al. (SC'11, "Parallel random numbers: as easy as 1, 2, 3").

A number is a pure function of a key and a counter, so it does not depend on what else was drawn.
"""

import torch
from torch import Tensor

Words2 = tuple[Tensor, Tensor]
Words4 = tuple[Tensor, Tensor, Tensor, Tensor]

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_ROUNDS = 10


def philox_4x32(counter: Words4, key: Words2) -> Words4:
    """Four random 32-bit words per counter and key; all are int64 tensors of broadcastable shapes."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The products wrap modulo 2**64, which leaves all their 64 bits right.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = _high(p1) ^ (c1 ^ k0), _high(p0) ^ (c3 ^ k1)
        c1, c3 = p1 & _MASK, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def gumbel(vocab_size: int, seeds: Tensor, choices: Tensor, output_indexes: Tensor) -> Tensor:
    """Standard Gumbel noise in float64 for every vocabulary id, [num_rows, vocab_size].

    `seeds` (any 64 bits), `choices` and `output_indexes` are [num_rows] int64. The key is the seed; id i has word
    i % 4 of the counter (i // 4, output index, choice, 0).
    """
    counters = torch.arange(-(-vocab_size // 4), device=seeds.device)[None]
    words = torch.stack(_words(counters, seeds, choices, output_indexes), dim=-1)
    return _noise(words.flatten(1)[:, :vocab_size])


def gumbel_at(token_ids: Tensor, seeds: Tensor, choices: Tensor, output_indexes: Tensor) -> Tensor:
    """The noise that `gumbel` has at the ids [num_rows, num_ids]."""
    words = torch.stack(_words(token_ids >> 2, seeds, choices, output_indexes), dim=-1)
    return _noise(words.gather(-1, (token_ids & 3)[..., None]).squeeze(-1))


def _words(counters: Tensor, seeds: Tensor, choices: Tensor, output_indexes: Tensor) -> Words4:
    key = (seeds[:, None] & _MASK, _high(seeds[:, None]))
    return philox_4x32((counters, output_indexes[:, None], choices[:, None], torch.zeros_like(key[0])), key)


def _noise(words: Tensor) -> Tensor:
    # Centred in its interval, a word gives a uniform number that is never 0 and never 1.
    uniform = words.double().add_(0.5).mul_(2.0**-32)
    return uniform.log_().neg_().log_().neg_()


def _high(product: Tensor) -> Tensor:
    return (product >> 32) & _MASK
