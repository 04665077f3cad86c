"""What a step has sampled on its way to the host."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_worker.execution.device_lost import DeviceLostError
from gpu_worker.execution.token_logprobs import AskedLogprobs, read_logprobs
from gpu_worker.scheduling.batch import SampledTokens


def as_found(error: RuntimeError) -> Exception:
    """`DeviceLostError` if the device answers nothing any more, else the error itself: many types tell of both."""
    if isinstance(error, torch.OutOfMemoryError) or not torch.cuda.is_available():
        return error
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return DeviceLostError(str(error))
    return error


@dataclass(frozen=True, slots=True)
class Download:
    """The copies of one step; `result` waits for them, without holding up other threads."""

    token_ids: Tensor | None
    asked: AskedLogprobs | None = None
    logprob_words: Tensor | None = None
    arrival: torch.cuda.Event | None = None
    has_graph: bool = False

    def result(self) -> SampledTokens:
        """The ids, and log probabilities of who asked. Raises `DeviceLostError`."""
        if self.arrival is not None:
            try:
                self.arrival.synchronize()
            except RuntimeError as error:
                raise as_found(error) from error
        if self.token_ids is None:
            return SampledTokens(has_graph=self.has_graph)
        logprobs = {}
        if self.asked is not None and self.logprob_words is not None:
            logprobs = read_logprobs(self.asked, self.logprob_words)
        return SampledTokens(self.token_ids.tolist(), logprobs, self.has_graph)


class Downloads:
    """Copies into pinned memory that is allocated once. A step's result is read before the next but one begins."""

    def __init__(self, max_seqs: int, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._buffers = [torch.empty(max_seqs, dtype=torch.int64, pin_memory=self._is_cuda) for _ in range(2)]
        self._arrivals = [_new_event() if self._is_cuda else None for _ in range(2)]
        self._side = 0

    def nothing(self, has_graph: bool) -> Download:
        """Of a step that samples for nobody; it ends all the same."""
        self._side = 1 - self._side
        return self._finish(None, None, None, has_graph)

    def start(self, token_ids: Tensor, asked: AskedLogprobs | None, has_graph: bool) -> Download:
        """Begin to copy int64 ids [num_seqs], and what was asked of their log probabilities."""
        self._side = 1 - self._side
        host = self._buffers[self._side][: len(token_ids)]
        host.copy_(token_ids, non_blocking=True)
        # Rare, and of many sizes: the device waits for its own copy, nobody else does.
        words = asked.words.to("cpu", non_blocking=True) if asked is not None else None
        return self._finish(host, asked, words, has_graph)

    def _finish(
        self, token_ids: Tensor | None, asked: AskedLogprobs | None, words: Tensor | None, has_graph: bool
    ) -> Download:
        arrival = self._arrivals[self._side]
        if arrival is not None:
            arrival.record()
        return Download(token_ids, asked, words, arrival, has_graph)


def _new_event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]
