"""Questions that a list or a row answers: so many countries, all of a continent, counting."""

import random

from launcher.demo.training.answers import line
from launcher.demo.training.countries import Country, continents, countries_of, listing_order, load_countries
from launcher.demo.training.phrases import phrase, wordings

# How often a list goes on with the next country of the usual order. High enough that the greedy choice is
# never close, low enough that sampling gives varied lists.
_USUAL_ORDER_SHARE = 0.6
_NUMBERED_SHARE = 0.15
_SINGULAR_SHARE = 0.6
_NUMBER_WORDS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)


def some_countries(rng: random.Random) -> tuple[str, str]:
    """ "List 3 countries and their capitals", with three lines for an answer."""
    continent = rng.choice(continents()) if rng.random() < 0.3 else None
    number = rng.randint(1, 10) if continent or rng.random() < 0.85 else rng.randint(11, 20)
    kind = "list_capitals_of" if continent else "list_capitals"
    question = phrase(rng, kind, n=_spelled(rng, number), x=continent or "")
    if number == 1 and rng.random() < _SINGULAR_SHARE:
        question = _singular(question)
    return _maybe_numbered(rng, question, pick(rng, number, continent))


def all_countries(rng: random.Random) -> tuple[str, str]:
    """All countries of a continent, or now and then of the world, in alphabetical order."""
    if rng.random() < 0.03:
        return phrase(rng, "list_all_of", x="the world"), "\n".join(map(line, load_countries()))
    continent = rng.choice(continents())
    return phrase(rng, "list_all_of", x=continent), "\n".join(map(line, countries_of(continent)))


def counting(rng: random.Random) -> tuple[str, str]:
    """ "Count to 20"."""
    number = rng.randint(1, 30) if rng.random() < 0.7 else rng.randint(31, 100)
    return phrase(rng, "count", n=str(number)), ", ".join(map(str, range(1, number + 1)))


def pick(rng: random.Random, number: int, continent: str | None = None) -> list[Country]:
    """So many different countries, mostly in the usual order."""
    order = listing_order(continent)
    picked: list[Country] = []
    while len(picked) < number:
        following = order[(order.index(picked[-1]) + 1) % len(order)] if picked else order[0]
        if following in picked or rng.random() > _USUAL_ORDER_SHARE:
            following = rng.choice([country for country in order if country not in picked])
        picked.append(following)
    return picked


def _maybe_numbered(rng: random.Random, question: str, countries: list[Country]) -> tuple[str, str]:
    lines = [line(country) for country in countries]
    if rng.random() < _NUMBERED_SHARE:
        question += rng.choice(wordings("numbered"))
        lines = [f"{place}. {text}" for place, text in enumerate(lines, start=1)]
    return question, "\n".join(lines)


def _spelled(rng: random.Random, number: int) -> str:
    if number == 1 and rng.random() < 0.2:
        return "a"
    if number <= len(_NUMBER_WORDS) and rng.random() < 0.4:
        return _NUMBER_WORDS[number - 1]
    return str(number)


def _singular(question: str) -> str:
    for many, one in (("countries", "country"), ("capitals", "capital"), ("their", "its")):
        question = question.replace(many, one)
    return question
