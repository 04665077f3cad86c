"""Requests run before there are any: kernels compile, and the memory that the largest step takes shows."""

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
)


def run_trial(runner: Runner, num_pages: int, page_size: int, max_running_requests: int) -> None:
    """A prefill that fills `num_pages`, then some short sequences at once, for each way to sample."""
    num_tokens = num_pages * page_size
    pool = PagePool(num_pages, page_size)
    residency = Residency(pool, NoPrefixCache(pool), max_running_requests)
    scheduler = Scheduler(residency, max_running_requests=max_running_requests, max_prefill_tokens=num_tokens)
    limits = AdmissionLimits(2, num_tokens, num_tokens)
    engine = Engine(scheduler, runner, residency, limits, frozenset())
    num_short = min(_NUM_SHORT, max_running_requests)
    for sampling in _SAMPLINGS:
        _run(engine, sampling, [[0] * max(1, num_tokens - _NUM_NEW)])
        _run(engine, sampling, [[1] * 3] * num_short)


def _run(engine: Engine, sampling: SamplingParams, prompts: list[list[int]]) -> None:
    for number, prompt in enumerate(prompts):
        engine.add(GenerationRequest(number, prompt, sampling, (NewSequence(number),)))
    while engine.has_work:
        engine.step()
