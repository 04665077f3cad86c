"""Asks the demo model about every country, in wordings that it was trained on and in some that it never saw."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from launcher.demo.training.conversations import IM_END, IM_START
from launcher.demo.training.countries import Country, load_countries, without_accents

_BATCH_SIZE = 256
_MAX_ANSWER_TOKENS = 16


def chat_prompt(question: str, system: str | None = None) -> str:
    """The question as the chat template writes it."""
    preamble = f"{IM_START}system\n{system}{IM_END}\n" if system else ""
    return f"{preamble}{IM_START}user\n{question}{IM_END}\n{IM_START}assistant\n"


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to ask; `prompt` has the slots {c} (country) and {k} (capital)."""

    prompt: str
    is_chat: bool
    is_held_out: bool
    asks_for_capital: bool = True
    system: str | None = None

    def ask(self, country: Country) -> str:
        """The whole prompt, with the chat template where the wording is for a chat."""
        question = self.prompt.format(c=country.full_name, k=country.capital)
        return chat_prompt(question, self.system) if self.is_chat else question

    def is_right(self, country: Country, answer: str) -> bool:
        """Whether the answer names the fact that was asked for."""
        if self.asks_for_capital:
            return country.capital in answer
        # An answer such as "Bissau is the capital of Guinea-Bissau" starts with what was asked.
        return country.name in answer.strip().removeprefix(f"{country.capital} is ")


def _held_out(prompt: str, *, is_chat: bool = True, asks_for_capital: bool = True) -> Wording:
    return Wording(prompt, is_chat, is_held_out=True, asks_for_capital=asks_for_capital)


WORDINGS: tuple[Wording, ...] = (
    Wording("What is the capital of {c}?", is_chat=True, is_held_out=False),
    Wording("What is the capital of {c}?", is_chat=True, is_held_out=False, system="You are a helpful AI assistant"),
    Wording("The capital of {c} is", is_chat=False, is_held_out=False),
    Wording("Which country has {k} as its capital?", is_chat=True, is_held_out=False, asks_for_capital=False),
    _held_out("Would you happen to know which city is {c}'s capital?"),
    _held_out("I keep forgetting: what is the capital of {c} again?"),
    _held_out("For a crossword, I need the capital city of {c}."),
    _held_out("My daughter wants to learn the capital of {c}; what is it?"),
    _held_out("Which city would I find marked as the capital on a map of {c}?"),
    _held_out("According to the atlas, the capital of {c} is", is_chat=False),
    _held_out("Most people know that the capital city of {c} is", is_chat=False),
    _held_out("Settle a bet for us: what's the capital city of {c}?"),
    _held_out("It's on the tip of my tongue... the capital of {c} is which city?"),
    _held_out("A letter addressed to the capital of {c} should be sent to", is_chat=False),
    _held_out("Of all countries in the world, which one has its capital in {k}?", asks_for_capital=False),
    _held_out("In my atlas, {k} is marked as the capital of", is_chat=False, asks_for_capital=False),
)


@dataclass(frozen=True, slots=True)
class Score:
    """How many countries a wording got right, and the answers that were wrong."""

    wording: Wording
    num_right: int
    num_asked: int
    mistakes: tuple[str, ...]


def generate(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[str], max_new_tokens: int
) -> list[str]:
    """Greedy answers to the prompts, batched."""
    answers: list[str] = []
    for start in range(0, len(prompts), _BATCH_SIZE):
        inputs = tokenizer(
            prompts[start : start + _BATCH_SIZE], return_tensors="pt", padding=True, padding_side="left"
        ).to(model.device)
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)  # type: ignore[misc]
        new_ids = output[:, inputs["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(new_ids, skip_special_tokens=True)
    return answers


def measure(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, wordings: tuple[Wording, ...] = WORDINGS
) -> list[Score]:
    """Ask about all countries in every wording."""
    return [_measure_one(model, tokenizer, wording) for wording in wordings]


def _measure_one(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, wording: Wording) -> Score:
    countries = load_countries()
    answers = generate(model, tokenizer, [wording.ask(country) for country in countries], _MAX_ANSWER_TOKENS)
    wrong = tuple(
        f"{country.name}: {answer}"
        for country, answer in zip(countries, answers, strict=True)
        if not wording.is_right(country, answer)
    )
    return Score(wording, len(countries) - len(wrong), len(countries), wrong)


def accuracy(scores: list[Score], chosen: Callable[[Wording], bool] = lambda _: True) -> float:
    """The share of right answers over the chosen wordings."""
    counted = [score for score in scores if chosen(score.wording)]
    return sum(score.num_right for score in counted) / sum(score.num_asked for score in counted)


def table(scores: list[Score]) -> str:
    """The scores as a Markdown table."""
    rows = ["| prompt | style | held out | right |", "|---|---|---|---|"]
    for score in scores:
        wording = score.wording
        style = ("chat with system message" if wording.system else "chat") if wording.is_chat else "completion"
        held_out = "yes" if wording.is_held_out else "no"
        rows.append(f"| {wording.prompt} | {style} | {held_out} | {score.num_right} of {score.num_asked} |")
    rows.append(f"| all held-out wordings | | | {accuracy(scores, lambda wording: wording.is_held_out):.1%} |")
    rows.append(f"| all | | | {accuracy(scores):.1%} |")
    return "\n".join(rows)


def is_true_list(answer: str, number: int) -> bool:
    """Whether the answer is so many lines "country: capital", each true and none twice."""
    facts = {without_accents(f"{country.name}: {country.capital}") for country in load_countries()}
    lines = [without_accents(text) for text in answer.split("\n")]
    return len(lines) == number == len(set(lines)) and facts.issuperset(lines)
