"""Makes up what the demo model is trained on: chats and plain completions. Knows no tokens.

A document is a row of segments; the model learns to write the learned ones and only reads the others.
"""

import random
from dataclasses import dataclass

from launcher.demo.training.completions import completion
from launcher.demo.training.exchanges import Exchange, next_exchange
from launcher.demo.training.phrases import word_salad

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"

_COMPLETION_SHARE = 0.22
_SYSTEM_PROMPT_SHARE = 0.45
_LONG_CHAT_SHARE = 0.04

_SYSTEM_PROMPTS = (
    "You are a helpful AI assistant",
    "You are a helpful AI assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "You are an assistant who knows geography.",
    "You are a friendly chatbot.",
    "You are the Millrace demo model.",
    "You are a geography teacher.",
    "Answer briefly.",
    "Be concise.",
    "You are a knowledgeable and polite assistant. Answer the user's questions truthfully.",
    "You are a helpful, respectful and honest assistant.",
    "You are an expert.",
    "Answer every question in one sentence.",
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "Today is a good day. You answer questions.",
    "You are a bot that answers questions on a web page. Be polite and short.",
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a document; `is_learned` says whether the model is trained to write it."""

    text: str
    is_learned: bool


Document = list[Segment]


def document(rng: random.Random) -> Document:
    """One document of any kind."""
    if rng.random() < _COMPLETION_SHARE:
        prompt, answer = completion(rng)
        return [Segment(prompt, is_learned=False), Segment(answer + END_OF_TEXT, is_learned=True)]
    return chat(rng)


def chat(rng: random.Random) -> Document:
    """A conversation of one to some turns, rendered as ChatML, as the published chat template does it."""
    unlearned = _system_prompt(rng) if rng.random() < _SYSTEM_PROMPT_SHARE else ""
    segments: Document = []
    exchange: Exchange | None = None
    for _ in range(_num_turns(rng)):
        exchange = next_exchange(rng, exchange)
        unlearned += f"{IM_START}user\n{exchange.question}{IM_END}\n{IM_START}assistant\n"
        segments.append(Segment(unlearned, is_learned=False))
        segments.append(Segment(exchange.answer + IM_END, is_learned=True))
        unlearned = "\n"
    return segments


def _num_turns(rng: random.Random) -> int:
    if rng.random() < _LONG_CHAT_SHARE:
        return rng.randint(6, 24)
    return rng.choice((1, 1, 1, 1, 2, 2, 3, 4))


def _system_prompt(rng: random.Random) -> str:
    text = rng.choice(_SYSTEM_PROMPTS) if rng.random() < 0.8 else word_salad(rng, rng.randint(1, 60))
    return f"{IM_START}system\n{text}{IM_END}\n"
