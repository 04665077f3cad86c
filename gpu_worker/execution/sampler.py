"""Applies each sequence's sampling parameters to its row of logits."""

from collections.abc import Callable
from collections.abc import Sequence as List

import numpy as np
import torch
from torch import Tensor

from gpu_worker.execution.sampling_needs import has_filters
from gpu_worker.kernels.torch_ops.sampling import filtered_sample, penalise_, sample, top_logprobs
from gpu_worker.scheduling.batch import SampledTokens, TokenLogprobs
from gpu_worker.scheduling.finish import masked_ids
from gpu_worker.scheduling.sequence import Sequence, has_penalties, is_greedy

_MASK64 = (1 << 64) - 1


def sample_tokens(logits: Tensor, sequences: List[Sequence]) -> SampledTokens:
    """The next id of each sequence, from [num_seqs, vocab_size] logits.

    It depends on the parameters and the position only: the same in any batch, on any worker, in any attempt.
    """
    if all(sequence.is_plain_greedy for sequence in sequences):
        return SampledTokens(logits.argmax(dim=-1).tolist())
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    token_ids = _choose(_adjusted(logits, sequences), sequences)
    return SampledTokens(token_ids.tolist(), _logprobs(logits, token_ids, sequences))


def _adjusted(logits: Tensor, sequences: List[Sequence]) -> Tensor:
    """Logits after penalties, bias and masks; the given ones stay as they are, for the log probabilities."""
    rows = [row for row, sequence in enumerate(sequences) if _changes_logits(sequence)]
    if not rows:
        return logits
    adjusted = logits.clone()
    for row in rows:
        _adjust_(adjusted, row, sequences[row])
    return adjusted


def _changes_logits(sequence: Sequence) -> bool:
    params = sequence.sampling
    return has_penalties(params) or bool(params.logit_bias) or sequence.num_output_tokens < params.min_new_tokens


def _adjust_(logits: Tensor, row: int, sequence: Sequence) -> None:
    params = sequence.sampling
    if has_penalties(params):
        seen = np.unique(np.array(sequence.token_ids, dtype=np.int64))
        outputs, counts = np.unique(np.array(sequence.output_ids, dtype=np.int64), return_counts=True)
        seen_ids, output_ids, output_counts = (
            torch.from_numpy(ids).to(logits.device) for ids in (seen, outputs, counts)
        )
        penalise_(
            logits,
            row,
            seen_ids,
            output_ids,
            output_counts,
            repetition=params.repetition_penalty,
            frequency=params.frequency_penalty,
            presence=params.presence_penalty,
        )
    if params.logit_bias:
        biased = torch.tensor(list(params.logit_bias), device=logits.device)
        biases = list(params.logit_bias.values())
        logits[row, biased] += torch.tensor(biases, dtype=logits.dtype, device=logits.device)
    masked = [id_ for id_ in masked_ids(sequence) if id_ < logits.shape[1]]
    if masked:
        logits[row, masked] = -torch.inf


def _choose(logits: Tensor, sequences: List[Sequence]) -> Tensor:
    groups: dict[Callable[[Tensor, List[Sequence]], Tensor], list[int]] = {}
    for row, sequence in enumerate(sequences):
        groups.setdefault(_method(sequence), []).append(row)
    token_ids = torch.empty(len(sequences), dtype=torch.int64, device=logits.device)
    for method, rows in groups.items():
        places = torch.tensor(rows, device=logits.device)
        token_ids[places] = method(logits[places], [sequences[row] for row in rows])
    return token_ids


def _method(sequence: Sequence) -> Callable[[Tensor, List[Sequence]], Tensor]:
    if is_greedy(sequence.sampling):
        return _greedy
    if has_filters(sequence):
        return _filtered
    return _unfiltered


def _greedy(logits: Tensor, sequences: List[Sequence]) -> Tensor:
    return logits.argmax(dim=-1)


def _unfiltered(logits: Tensor, sequences: List[Sequence]) -> Tensor:
    return sample(logits, _column(logits, sequences, "temperature"), *_counters(logits, sequences))


def _filtered(logits: Tensor, sequences: List[Sequence]) -> Tensor:
    temperature, top_p, min_p = (_column(logits, sequences, name) for name in ("temperature", "top_p", "min_p"))
    limits = [s.sampling.top_k if s.sampling.top_k > 0 else logits.shape[1] for s in sequences]
    top_k = torch.tensor(limits, device=logits.device)
    return filtered_sample(logits, temperature, top_k, top_p, min_p, *_counters(logits, sequences))


def _column(logits: Tensor, sequences: List[Sequence], name: str) -> Tensor:
    values = [getattr(sequence.sampling, name) for sequence in sequences]
    return torch.tensor(values, dtype=logits.dtype, device=logits.device)


def _counters(logits: Tensor, sequences: List[Sequence]) -> tuple[Tensor, Tensor, Tensor]:
    """Seed, choice and output index of each row, which are all that its randomness depends on."""
    seeds = np.array([sequence.sampling.seed & _MASK64 for sequence in sequences], dtype=np.uint64)
    choices = [sequence.choice for sequence in sequences]
    indexes = [sequence.num_output_tokens for sequence in sequences]
    columns = np.array((seeds.view(np.int64), choices, indexes), dtype=np.int64)
    seed_column, choice_column, index_column = torch.from_numpy(columns).to(logits.device).unbind()
    return seed_column, choice_column, index_column


def _logprobs(logits: Tensor, token_ids: Tensor, sequences: List[Sequence]) -> dict[int, TokenLogprobs]:
    """For the sequences that asked, by their place."""
    rows = [row for row, sequence in enumerate(sequences) if sequence.sampling.return_logprob]
    if not rows:
        return {}
    num_top = max(sequences[row].sampling.top_logprobs_num for row in rows)
    places = torch.tensor(rows, device=logits.device)
    chosen, top_ids, top_values = top_logprobs(logits[places], token_ids[places], min(num_top, logits.shape[1]))
    columns = zip(rows, token_ids[places].tolist(), chosen.tolist(), top_ids.tolist(), top_values.tolist(), strict=True)
    return {
        row: TokenLogprobs(
            value, top_alternatives(sequences[row].sampling.top_logprobs_num, token_id, value, ids, values)
        )
        for row, token_id, value, ids, values in columns
    }


def top_alternatives(
    num_top: int, token_id: int, logprob: float, ids: list[int], values: list[float]
) -> tuple[tuple[int, float], ...]:
    """The best alternatives, best first; among equals the chosen id comes first, as a greedy choice expects."""
    top = list(zip(ids, values, strict=True))
    if top and values[0] == logprob and ids[0] != token_id:
        top = [(token_id, logprob), *(pair for pair in top if pair[0] != token_id)]
    return tuple(top[:num_top])
