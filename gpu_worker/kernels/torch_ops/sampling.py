"""From logits to token ids. A row's result depends on that row alone, never on the rest of the batch."""

import torch
from torch import Tensor

from gpu_worker.kernels.torch_ops.philox import gumbel, gumbel_at


def sample(logits: Tensor, temperature: Tensor, seeds: Tensor, choices: Tensor, output_indexes: Tensor) -> Tensor:
    """Draw one id per row of [num_rows, vocab_size] from softmax(logits / temperature), by the Gumbel-max trick."""
    scores = logits / temperature[:, None] + gumbel(logits.shape[1], seeds, choices, output_indexes)
    return scores.argmax(dim=-1)


def filtered_sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    choices: Tensor,
    output_indexes: Tensor,
) -> Tensor:
    """As `sample`, among the ids that pass all filters; the most likely id always passes.

    In order: the `top_k` most likely ids; of these, renormalised, the shortest head whose probabilities reach
    `top_p`; of these, the ids of at least `min_p` times the probability of the most likely one.
    """
    scaled, token_ids = (logits / temperature[:, None]).sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(scaled.shape[1], device=logits.device)
    scaled = scaled.masked_fill(ranks >= top_k[:, None], -torch.inf)
    probabilities = scaled.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = (before < top_p[:, None]) & (probabilities >= min_p[:, None] * probabilities[:, :1])
    kept[:, 0] = True
    # What passes is a head of the sorted row, so noise is needed for the longest head only.
    num_kept = int(kept.sum(dim=-1).max())
    scores = scaled[:, :num_kept].masked_fill(~kept[:, :num_kept], -torch.inf)
    scores = scores + gumbel_at(token_ids[:, :num_kept], seeds, choices, output_indexes)
    return token_ids.gather(1, scores.argmax(dim=-1, keepdim=True)).squeeze(1)


def penalise_(
    logits: Tensor,
    row: int,
    seen_ids: Tensor,
    output_ids: Tensor,
    output_counts: Tensor,
    *,
    repetition: float,
    frequency: float,
    presence: float,
) -> None:
    """Change one row in place. `seen_ids` are the distinct ids of prompt and output, `output_ids` those of the output.

    Repetition divides positive and multiplies negative logits of ids that were seen anywhere
    (https://arxiv.org/abs/1909.05858); frequency and presence are subtracted for ids of the output, the first
    once per occurrence.
    """
    if repetition != 1.0:
        seen = logits[row, seen_ids]
        logits[row, seen_ids] = torch.where(seen > 0, seen / repetition, seen * repetition)
    if frequency or presence:
        logits[row, output_ids] -= frequency * output_counts.to(logits.dtype) + presence


def top_logprobs(logits: Tensor, token_ids: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row: the log probability of its token id, and the `num_top` best ids with theirs.

    They come from the softmax of `logits` as given, which should be the model's own, untouched by temperature,
    penalties and filters. Shapes [num_rows], [num_rows, num_top] ids, [num_rows, num_top] log probabilities.
    """
    logprobs = logits.log_softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    chosen = logprobs.gather(1, token_ids[:, None]).squeeze(1)
    top = logprobs.topk(num_top, dim=-1)
    return chosen, top.indices, top.values
