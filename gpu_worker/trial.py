"""Requests run before there are any: kernels compile, and the memory that the largest step takes shows."""

from collections.abc import Iterator
from itertools import count

from gpu_worker.engine import Engine, Runner
from gpu_worker.kv.no_prefix_cache import NoPrefixCache
from gpu_worker.kv.page_pool import PagePool
from gpu_worker.scheduling.admission import AdmissionLimits
from gpu_worker.scheduling.residency import Residency
from gpu_worker.scheduling.scheduler import Scheduler
from gpu_worker.scheduling.sequence import GenerationRequest, NewSequence
from wire.sampling import SamplingParams

_NUM_SHORT = 20
_NUM_NEW = 4
_SAMPLINGS = (
    SamplingParams(temperature=0.0, max_new_tokens=_NUM_NEW, ignore_eos=True),
    SamplingParams(temperature=0.7, max_new_tokens=_NUM_NEW, ignore_eos=True),
    SamplingParams(temperature=0.7, top_p=0.9, top_k=40, min_p=0.01, max_new_tokens=_NUM_NEW, ignore_eos=True),
    SamplingParams(
        temperature=0.7,
        frequency_penalty=0.1,
        logit_bias={0: 1.0},
        min_new_tokens=2,
        return_logprob=True,
        top_logprobs_num=2,
        max_new_tokens=_NUM_NEW,
        ignore_eos=True,
    ),
)


def run_trial(runner: Runner, num_pages: int, page_size: int, max_running_requests: int, context_length: int) -> None:
    """Prefills that fill `num_pages` in one step, then some short sequences at once, for each way to sample."""
    num_tokens = num_pages * page_size
    pool = PagePool(num_pages, page_size)
    residency = Residency(pool, NoPrefixCache(pool), max_running_requests)
    scheduler = Scheduler(residency, max_running_requests=max_running_requests, max_prefill_tokens=num_tokens)
    limits = AdmissionLimits(2, min(num_tokens, context_length), num_tokens)
    engine = Engine(scheduler, runner, residency, limits, frozenset())
    num_short = min(_NUM_SHORT, max_running_requests)
    keys = count(1)
    for sampling in _SAMPLINGS:
        _run(engine, keys, sampling, _long_prompts(num_tokens, limits.context_length, page_size))
        _run(engine, keys, sampling, [[1] * min(3, limits.context_length)] * num_short)


def _run(engine: Engine, keys: Iterator[int], sampling: SamplingParams, prompts: list[list[int]]) -> None:
    for key, prompt in zip(keys, prompts, strict=False):
        engine.add(GenerationRequest(key, prompt, sampling, (NewSequence(key),)))
    while engine.has_work:
        engine.step()


def _long_prompts(num_tokens: int, context_length: int, page_size: int) -> list[list[int]]:
    """As many tokens as there is room for, with that for the answers, in prompts that the model can hold."""
    if num_tokens <= context_length:
        return [[0] * max(1, num_tokens - _NUM_NEW)]
    # A page less for each, since the scheduler spares one for every sequence that runs.
    size = max(context_length // page_size, 1) * page_size
    return [[0] * max(1, size - page_size - _NUM_NEW)] * (num_tokens // size)
