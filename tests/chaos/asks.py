"""What the streams ask for: every way of sampling and of telling the answer, each with fixed seeds.

Two kinds are there for what a fault may cut in two. The tokens of `characters` are single bytes, so that half of the
time a stream is inside a multi-byte character; those of `stops` are the letters of the stop string, so that half of
the time it is inside a half-matched stop string.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

NUM_TOKENS = 200
STOP_STRING = "aaaaaaa"

_BYTES = dict.fromkeys(("130", "105", "175", "256", "249", "225"), 100.0)
"""The demo model's ids of the bytes C3 A9 F0 9F 98 80: é is the first two of them, 😀 the last four."""
_LETTERS = {"67": 94.0, "68": 100.0}
"""The demo model's ids of `a`, which it likes better, and `b`. So most stops come after 30 to 200 tokens."""
_PROMPTS = ("The capital of France is", "Grüße an 世界 😀", "List 3 countries", "x " * 120)

Api = Literal["generate", "chat", "completions"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, always for a stream. Its kind and number say all; equal asks have equal answers."""

    kind: str
    number: int
    api: Api
    body: dict[str, Any] = field(compare=False)

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.kind} {self.number}"


def _native(kind: str, number: int, sampling: dict[str, Any], **fields: Any) -> Ask:
    text = f"{number}: {_PROMPTS[number % len(_PROMPTS)]}"
    params = {"max_new_tokens": NUM_TOKENS, "ignore_eos": True, "sampling_seed": number} | sampling
    return Ask(kind, number, "generate", {"text": text, "sampling_params": params} | fields)


def _openai(kind: str, number: int, api: Api, **fields: Any) -> Ask:
    prompt = f"{number}: {_PROMPTS[number % len(_PROMPTS)]}"
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]} if api == "chat" else {"prompt": prompt}
    body = {
        "model": "demo",
        "max_tokens": NUM_TOKENS,
        "seed": number,
        "temperature": 1.0,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    return Ask(kind, number, api, body | asked | fields)


def greedy(number: int) -> Ask:
    """Temperature 0."""
    return _native("greedy", number, {"temperature": 0.0})


def sampled(number: int) -> Ask:
    """Temperature 1 with a seed, and the logprobs of what was chosen and of the best two."""
    return _native("sampled", number, {"temperature": 1.0}, return_logprob=True, top_logprobs_num=2)


def choices(number: int) -> Ask:
    """Three choices at a time."""
    return _native("choices", number, {"temperature": 1.0, "n": 3, "max_new_tokens": NUM_TOKENS // 2})


def characters(number: int) -> Ask:
    """Nothing but pieces of characters."""
    return _native("characters", number, {"temperature": 4.0, "logit_bias": _BYTES})


def stops(number: int) -> Ask:
    """Nothing but pieces of the stop string."""
    sampling = {"temperature": 4.0, "logit_bias": _LETTERS, "stop": [STOP_STRING]}
    return _native("stops", number, sampling)


def penalties(number: int) -> Ask:
    """Every penalty at once, through the OpenAI client."""
    extra = {"ignore_eos": True, "repetition_penalty": 1.1}
    return _openai(
        "penalties", number, "completions", frequency_penalty=0.7, presence_penalty=0.4, logprobs=1, extra_body=extra
    )


def chat(number: int) -> Ask:
    """A chat with two choices and logprobs, through the OpenAI client."""
    extra = {"ignore_eos": True}
    return _openai(
        "chat", number, "chat", n=2, max_tokens=NUM_TOKENS // 2, logprobs=True, top_logprobs=1, extra_body=extra
    )


def ending(number: int) -> Ask:
    """Ends where the model ends it."""
    return _openai("ending", number, "chat", temperature=0.0)


KINDS = (greedy, sampled, choices, characters, stops, penalties, chat, ending)


def mixture(num_asks: int) -> list[Ask]:
    """So many asks, of every kind alike."""
    return [KINDS[number % len(KINDS)](number) for number in range(num_asks)]


def many_of(kind: str, num_asks: int) -> list[Ask]:
    """So many asks, half of them of one kind, so that a fault cannot miss it."""
    (make,) = (make for make in KINDS if make.__name__ == kind)
    half = num_asks // 2
    return [make(number) for number in range(half)] + mixture(num_asks - half)
