"""Questions and answers for one turn of a chat: what is asked, how often, and what may follow."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from launcher.demo.training import lists, small_talk
from launcher.demo.training.answers import (
    about_answer,
    capital_answer,
    continent_answer,
    country_answer,
    flag_answer,
    json_answer,
)
from launcher.demo.training.countries import Country, continents, load_countries
from launcher.demo.training.phrases import load_phrases, made_up_name, phrase, rough, with_typo, word_salad, wordings

_FOLLOW_UP_SHARE = 0.4
_ALIAS_SHARE = 0.25
_NO_ARTICLE_SHARE = 0.15
_NAME_TYPO_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question, its answer, and the answer that "And Germany?" would get after it."""

    question: str
    answer: str
    follow_up: Callable[[Country], str] | None = None
    follow_up_by_capital: bool = False


def next_exchange(rng: random.Random, previous: Exchange | None) -> Exchange:
    """A new question, or one that refers to the last ("And Germany?")."""
    if previous and previous.follow_up and rng.random() < _FOLLOW_UP_SHARE:
        return _follow_up(rng, previous)
    make = rng.choices(_MAKERS, _WEIGHTS)[0]
    return make(rng)


def _follow_up(rng: random.Random, previous: Exchange) -> Exchange:
    assert previous.follow_up
    country = _any_country(rng)
    slot = country.capital if previous.follow_up_by_capital else named(rng, country)
    question = phrase(rng, "follow_up", c=slot)
    return Exchange(question, previous.follow_up(country), previous.follow_up, previous.follow_up_by_capital)


def named(rng: random.Random, country: Country) -> str:
    """The country as a question may name it: by its full name, without its article, or by another name."""
    if country.aliases and rng.random() < _ALIAS_SHARE:
        return rng.choice(country.aliases)
    name = country.name if rng.random() < _NO_ARTICLE_SHARE else country.full_name
    return with_typo(rng, name) if len(name) > 4 and rng.random() < _NAME_TYPO_SHARE else name


def _any_country(rng: random.Random) -> Country:
    return rng.choice(load_countries())


def _ask_of_country(
    kind: str, answer: Callable[[Country], str], *, follows: bool = True
) -> Callable[[random.Random], Exchange]:
    def make(rng: random.Random) -> Exchange:
        country = _any_country(rng)
        question = phrase(rng, kind, c=named(rng, country), f=country.flag)
        return Exchange(question, answer(country), answer if follows else None)

    return make


def _ask_country(rng: random.Random) -> Exchange:
    country = _any_country(rng)
    wording = rng.choice(wordings("country"))
    while country.capital == country.name and "capital" not in wording.lower():
        wording = rng.choice(wordings("country"))
    question = rough(rng, wording, k=country.capital)
    return Exchange(question, country_answer(country), country_answer, follow_up_by_capital=True)


def _ask_two_capitals(rng: random.Random) -> Exchange:
    first, second = rng.sample(load_countries(), 2)
    question = phrase(rng, "two_capitals", c=named(rng, first), d=named(rng, second))
    return Exchange(question, f"{capital_answer(first)} {capital_answer(second)}", capital_answer)


def _ask_if_on_continent(rng: random.Random) -> Exchange:
    country = _any_country(rng)
    continent = rng.choice((country.continent, rng.choice(continents())))
    verdict = "Yes" if continent == country.continent else "No"
    question = phrase(rng, "yes_no_continent", c=named(rng, country), x=continent)
    return Exchange(question, f"{verdict}. {continent_answer(country)}")


def _ask_if_capital(rng: random.Random) -> Exchange:
    country = _any_country(rng)
    capital = rng.choice((country.capital, _any_country(rng).capital))
    verdict = "Yes" if capital == country.capital else "No"
    question = phrase(rng, "yes_no_capital", c=named(rng, country), k=capital)
    return Exchange(question, f"{verdict}. {capital_answer(country)}")


def _ask_beyond(rng: random.Random) -> Exchange:
    """Something that the model does not know and should decline."""
    refusals = load_phrases("refusals")
    country = _any_country(rng)
    kind = rng.choices(("anything", "about_country", "about_capital", "words", "frames"), (4, 3, 2, 3, 3))[0]
    if kind == "frames":
        return Exchange(_filled_frame(rng, rng.choice(refusals["frames"])), small_talk.REFUSAL)
    if kind == "words":
        return Exchange(word_salad(rng, int(2 ** rng.uniform(0.0, 8.0))), small_talk.REFUSAL)
    question = rough(rng, rng.choice(refusals[kind]), c=named(rng, country), k=country.capital)
    return Exchange(question, small_talk.REFUSAL)


def _filled_frame(rng: random.Random, frame: str) -> str:
    while "{w}" in frame:
        frame = frame.replace("{w}", word_salad(rng, rng.choice((1, 1, 2, 3))), 1)
    while "{n}" in frame:
        frame = frame.replace("{n}", str(rng.randint(1, 99)), 1)
    return rough(rng, frame)


def _ask_no_country(rng: random.Random) -> Exchange:
    refusals = load_phrases("refusals")
    if rng.random() < 0.6:
        place = made_up_name(rng) if rng.random() < 0.4 else rng.choice(refusals["no_country"])
        return Exchange(phrase(rng, "capital", c=place), small_talk.NO_SUCH_COUNTRY, capital_answer)
    place = made_up_name(rng) if rng.random() < 0.4 else rng.choice(refusals["no_capital"])
    wording = rng.choice([text for text in wordings("country") if "capital" in text.lower()])
    return Exchange(rough(rng, wording, k=place), small_talk.NO_SUCH_CAPITAL)


def _plain(make: Callable[[random.Random], tuple[str, str]]) -> Callable[[random.Random], Exchange]:
    return lambda rng: Exchange(*make(rng))


# What is asked, and how often.
_ASKED: tuple[tuple[Callable[[random.Random], Exchange], float], ...] = (
    (_ask_of_country("capital", capital_answer), 36.0),
    (_ask_of_country("one_word", lambda country: country.capital), 3.0),
    (_ask_of_country("json", json_answer, follows=False), 2.0),
    (_ask_of_country("continent", continent_answer), 7.0),
    (_ask_of_country("flag", flag_answer), 5.0),
    (_ask_of_country("flag_country", about_answer, follows=False), 1.5),
    (_ask_of_country("about", about_answer, follows=False), 4.0),
    (_ask_country, 18.0),
    (_ask_two_capitals, 2.0),
    (_ask_if_on_continent, 3.0),
    (_ask_if_capital, 6.0),
    (_plain(lists.some_countries), 9.0),
    (_plain(lists.all_countries), 1.0),
    (_plain(lists.counting), 1.5),
    (_plain(small_talk.small_talk), 9.0),
    (_plain(small_talk.greeting), 1.5),
    (_ask_beyond, 9.0),
    (_ask_no_country, 2.0),
)
_MAKERS = [make for make, _ in _ASKED]
_WEIGHTS = [weight for _, weight in _ASKED]
