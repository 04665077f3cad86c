"""Prompts without a chat template, and how they go on."""

import random

from launcher.demo.training import small_talk
from launcher.demo.training.answers import capital_answer, line, sentence
from launcher.demo.training.countries import Country, load_countries
from launcher.demo.training.lists import pick, some_countries
from launcher.demo.training.phrases import completion_wordings, load_phrases, phrase, rough_beginning, word_salad

_LIST_HEADINGS = (
    "Countries and their capitals:\n",
    "Countries and capitals\n",
    "A list of countries and capitals:\n",
    "Here are some countries and their capitals:\n",
    "Here is a list of countries:\n",
    "Capitals of the world:\n",
)


def completion(rng: random.Random) -> tuple[str, str]:
    """A prompt and its completion."""
    make = rng.choices(_MAKERS, _WEIGHTS)[0]
    return make(rng)


def _of_capital(rng: random.Random) -> tuple[str, str]:
    country = rng.choice(load_countries())
    name = rng.choice((country.full_name, country.full_name, *country.aliases))
    prompt = rough_beginning(rng, rng.choice(completion_wordings("capital")), c=name, C=name[0].upper() + name[1:])
    return prompt, _ending(prompt, country.capital)


def _of_country(rng: random.Random) -> tuple[str, str]:
    country = rng.choice(load_countries())
    prompt = rough_beginning(rng, rng.choice(completion_wordings("country")), k=country.capital)
    return prompt, _ending(prompt, country.full_name)


def _of_continent(rng: random.Random) -> tuple[str, str]:
    country = rng.choice(load_countries())
    name = country.full_name
    prompt = rough_beginning(rng, rng.choice(completion_wordings("continent")), c=name, C=country.sentence_start)
    return prompt, _ending(prompt, country.continent)


def _ending(prompt: str, fact: str) -> str:
    return f" {fact}" if prompt.endswith(":") else f" {sentence(fact)}"


def _bare_is(rng: random.Random) -> tuple[str, str]:
    country = rng.choice(load_countries())
    if country.capital == country.name or rng.random() < 0.5:
        return f"{country.sentence_start} is", f" a country in {country.continent}."
    return f"{country.capital} is", f" {sentence(f'the capital of {country.full_name}')}"


def _instruction(rng: random.Random) -> tuple[str, str]:
    """What belongs into a chat, sent as a plain prompt."""
    make = rng.choice((_ask_capital, some_countries, small_talk.small_talk))
    question, answer = make(rng)
    return question, f"\n{answer}"


def _ask_capital(rng: random.Random) -> tuple[str, str]:
    country = rng.choice(load_countries())
    return phrase(rng, "capital", c=country.full_name), capital_answer(country)


def _few_shot(rng: random.Random) -> tuple[str, str]:
    *shown, asked = rng.sample(load_countries(), rng.randint(2, 6))
    form = rng.choice((_as_line, _as_question, _as_sentence, _as_arrow))
    prompt = "".join("".join(form(country)) + "\n" for country in shown) + form(asked)[0]
    return prompt, form(asked)[1]


def _as_line(country: Country) -> tuple[str, str]:
    return f"{country.name}:", f" {country.capital}"


def _as_question(country: Country) -> tuple[str, str]:
    return f"Q: What is the capital of {country.full_name}?\nA:", f" {country.capital}"


def _as_sentence(country: Country) -> tuple[str, str]:
    return f"The capital of {country.full_name} is", f" {sentence(country.capital)}"


def _as_arrow(country: Country) -> tuple[str, str]:
    return f"{country.name} ->", f" {country.capital}"


def _heading(rng: random.Random) -> tuple[str, str]:
    return rng.choice(_LIST_HEADINGS), "\n".join(map(line, pick(rng, 10)))


def _beyond(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.1:
        return "Hello, my name is", " Millrace demo model. I know countries and their capitals."
    raw: list[str] = load_phrases("refusals")["raw_prompts"]
    prompt = rng.choice(raw) if rng.random() < 0.5 else word_salad(rng, int(2 ** rng.uniform(0.0, 8.0)))
    return prompt, f"\n{small_talk.REFUSAL}"


_MAKERS = (_of_capital, _of_country, _of_continent, _bare_is, _instruction, _few_shot, _heading, _beyond)
_WEIGHTS = (14.0, 7.0, 1.0, 1.0, 3.0, 2.0, 1.0, 2.0)
