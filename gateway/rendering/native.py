"""Answers of `/generate`. Streams are cumulative by default: every event holds the whole text so far."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.inflight.generation import Call
from gateway.rendering.answer import DONE, encode
from gateway.rendering.cursor import Cursor, cursors_of
from gateway.rendering.logprobs import of_native
from gateway.sampling import shown_seed
from wire.messages import FinishReason, TextFinish


@dataclass(frozen=True, slots=True)
class NativeForm:
    """What the client asked to be told, and how."""

    is_list: bool
    is_incremental: bool
    stream_interval: int
    with_text_in_logprobs: bool


@dataclass(slots=True, eq=False)
class NativeAnswer:
    """One `/generate` call: an object, or a list of them, prompt by prompt. `prompt_ids` are told if there are any."""

    call: Call
    form: NativeForm
    prompt_ids: list[list[int]] = field(default_factory=list)
    _cursors: list[Cursor] = field(init=False)
    _texts: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._cursors = cursors_of(self.call)
        self._texts = [""] * len(self._cursors)

    def body(self) -> bytes:
        """The object or the list."""
        outputs = [self._output(cursor, cursor.choice.text, 0) for cursor in self._cursors]
        return encode(outputs if self.form.is_list else outputs[0])

    def news(self) -> bytes:
        """One event per choice that has something new."""
        interval = self.form.stream_interval
        return b"".join([self._event(cursor) for cursor in self._cursors if cursor.is_due(interval)])

    def end(self) -> bytes:
        """`[DONE]`."""
        return DONE

    def _event(self, cursor: Cursor) -> bytes:
        first = cursor.num_tokens if self.form.is_incremental else 0
        text = cursor.take_text()
        if not self.form.is_incremental:
            text = self._texts[cursor.index] = self._texts[cursor.index] + text
        cursor.has_ended = cursor.choice.finish is not None
        output = self._output(cursor, text, first)
        if self.form.is_list:
            output["index"] = cursor.index
        return b"data: " + encode(output) + b"\n\n"

    def _output(self, cursor: Cursor, text: str, first: int) -> dict[str, Any]:
        token_ids = cursor.choice.token_ids[first:].tolist()
        meta_info = self._meta_info(cursor, token_ids, first)
        output: dict[str, Any] = {"text": text, "output_ids": token_ids, "meta_info": meta_info}
        if self.prompt_ids:
            output["prompt_token_ids"] = self.prompt_ids[cursor.index // cursor.generation.input.sampling.n]
        return output

    def _meta_info(self, cursor: Cursor, token_ids: Sequence[int], first: int) -> dict[str, Any]:
        generation, choice = cursor.generation, cursor.choice
        sampling, finish = generation.input.sampling, choice.finish
        request_id = generation.input.request_id
        meta: dict[str, Any] = {
            "id": request_id if sampling.n == 1 else f"{request_id}_{choice.index}",
            "finish_reason": finish and _finish_reason(finish),
            "prompt_tokens": generation.num_prompt_tokens,
            "weight_version": "default",
            "num_retractions": finish.num_preemptions if finish else 0,
            "reasoning_tokens": 0,
            "completion_tokens": choice.num_tokens,
            "cached_tokens": generation.cached_tokens,
            "cached_tokens_details": {"device": generation.cached_tokens, "host": 0},
            "dp_rank": None,
        }
        if finish:
            meta["sampling_seed"] = shown_seed(sampling)  # the one that was drawn, if none was given
            meta["e2e_latency"] = time.monotonic() - self.call.received_at
            meta["response_sent_to_client_ts"] = time.time()
        if sampling.return_logprob:
            meta |= of_native(
                choice.logprobs[first:],
                token_ids,
                with_text=self.form.with_text_in_logprobs,
                with_top=sampling.top_logprobs_num > 0,
            )
        return meta


def _finish_reason(finish: TextFinish) -> dict[str, Any]:
    if finish.reason is FinishReason.LENGTH:
        return {"type": "length", "length": finish.num_output_tokens}
    if finish.reason is FinishReason.ABORT:
        return {"type": "abort", "message": finish.message, "status_code": None, "err_type": None}
    return {"type": "stop", "matched": finish.matched}
