"""Loads the wordings and texts beside this file, and roughens questions the way people type them."""

import random
import string
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from launcher.demo.training.countries import without_accents

_SENTENCE_CASE_SHARE = 0.5
_LOWER_CASE_SHARE = 0.12
_UPPER_CASE_SHARE = 0.01
_NO_PUNCTUATION_SHARE = 0.12
_NO_ACCENTS_SHARE = 0.4
_TYPO_SHARE = 0.06
_OPENER_SHARE = 0.12
_CLOSER_SHARE = 0.12
_SALAD_SHARE = 0.15


@cache
def load_phrases(name: str) -> dict[str, Any]:
    """One of the TOML files in this folder."""
    with (Path(__file__).parent / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


def all_phrases() -> Iterator[str]:
    """Every text that the training conversations are made of."""
    for name in ("wordings", "refusals", "small_talk"):
        yield from _texts(load_phrases(name))


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    else:
        for child in node.values() if isinstance(node, dict) else node:
            yield from _texts(child)


def wordings(kind: str) -> list[str]:
    """The wordings of one kind of chat question."""
    chosen: list[str] = load_phrases("wordings")[kind]
    return chosen


def completion_wordings(kind: str) -> list[str]:
    """The beginnings of sentences of one kind, for prompts without a chat template."""
    chosen: list[str] = load_phrases("wordings")["completion"][kind]
    return chosen


def phrase(rng: random.Random, kind: str, **slots: str) -> str:
    """A question of this kind, with its slots filled, worded and spelled as chance has it."""
    return rough(rng, rng.choice(wordings(kind)), **slots)


def rough(rng: random.Random, wording: str, **slots: str) -> str:
    """Fill the slots; sometimes surround the question, misspell it, or drop case, accents, punctuation."""
    if rng.random() < _TYPO_SHARE:
        wording = with_typo(rng, wording)
    if rng.random() < _OPENER_SHARE:
        wording = rng.choice(wordings("openers")) + wording
    if rng.random() < _CLOSER_SHARE:
        wording += rng.choice(wordings("closers"))
    if rng.random() < _SALAD_SHARE:
        wording = _before(rng, wording) if rng.random() < 0.6 else _after(rng, wording)
    text = _as_typed(rng, _filled(rng, wording, slots))
    return text.rstrip("?.!") if rng.random() < _NO_PUNCTUATION_SHARE else text


def rough_beginning(rng: random.Random, wording: str, **slots: str) -> str:
    """Like `rough`, for text that is to be continued: nothing comes after it, and its end stays as it is."""
    if rng.random() < _SALAD_SHARE:
        wording = _before(rng, wording)
    return _as_typed(rng, _filled(rng, wording, slots))


def _filled(rng: random.Random, wording: str, slots: dict[str, str]) -> str:
    text = wording.format(**slots)
    return text[0].upper() + text[1:] if rng.random() < _SENTENCE_CASE_SHARE else text


def _as_typed(rng: random.Random, text: str) -> str:
    if rng.random() < _NO_ACCENTS_SHARE:
        text = without_accents(text)
    if rng.random() < _LOWER_CASE_SHARE:
        return text.lower()
    return text.upper() if rng.random() < _UPPER_CASE_SHARE else text


def _before(rng: random.Random, wording: str) -> str:
    """Random words in front, so that the model learns to find the question in what surrounds it."""
    return f"{_some_words(rng)}{rng.choice((',', ':', '.', ';', ' -', '!', '?', ''))} {wording}"


def _after(rng: random.Random, wording: str) -> str:
    return f"{wording}{rng.choice((' ', ', ', '; ', ' - '))}{_some_words(rng)}{rng.choice(('.', '?', '!', ''))}"


def _some_words(rng: random.Random) -> str:
    return word_salad(rng, rng.randint(1, 8))


def with_typo(rng: random.Random, wording: str) -> str:
    """Drop, double or replace one letter of the wording, never inside a slot."""
    inside = False
    places = []
    for index, character in enumerate(wording):
        inside = character == "{" or (inside and character != "}")
        if not inside and character.isalpha():
            places.append(index)
    if not places:
        return wording
    place = rng.choice(places)
    letter = wording[place]
    instead = rng.choice(["", letter * 2, rng.choice(string.ascii_lowercase)])
    return wording[:place] + instead + wording[place + 1 :]


def word_salad(rng: random.Random, num_words: int) -> str:
    """So many random English words, with a made-up one now and then: what a load test may send."""
    known: list[str] = load_phrases("refusals")["words"].split()
    return " ".join(rng.choice(known) if rng.random() < 0.85 else made_up_name(rng).lower() for _ in range(num_words))


def made_up_name(rng: random.Random) -> str:
    """A name that nobody has, of two to four syllables."""
    syllables = [rng.choice("bcdfghjklmnprstvwz") + rng.choice(["a", "e", "i", "o", "u", "or", "an", "el", "is"])]
    syllables += [rng.choice("bdfgklmnprstvxz") + rng.choice("aeiouy") for _ in range(rng.randint(1, 3))]
    return "".join(syllables).capitalize()
