"""The facts that the demo model knows: every country's name, capital, continent and flag. Knows no wording."""

import csv
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_REGIONAL_INDICATOR_A = 0x1F1E6

# Where a list of countries starts, and in which order it goes on, unless chance says otherwise.
_WELL_KNOWN = (
    *("FR", "JP", "BR", "EG", "CA", "DE", "IN", "AU", "KE", "MX"),
    *("IT", "TH", "PE", "NO", "ZA", "ES", "CN", "AR", "GR", "NZ"),
)


@dataclass(frozen=True, slots=True)
class Country:
    """One row of the table; `aliases` are other names that a question may use, with their article."""

    iso: str
    name: str
    article: str
    capital: str
    continent: str
    aliases: tuple[str, ...]

    @property
    def full_name(self) -> str:
        """The name inside a sentence: "the Netherlands", "France"."""
        return f"{self.article} {self.name}".strip()

    @property
    def sentence_start(self) -> str:
        """The name at the start of a sentence: "The Netherlands", "France"."""
        return self.full_name[0].upper() + self.full_name[1:]

    @property
    def flag(self) -> str:
        """The flag as two regional indicator symbols, as Unicode builds it from the ISO code."""
        return "".join(chr(_REGIONAL_INDICATOR_A + ord(letter) - ord("A")) for letter in self.iso)


@cache
def load_countries() -> tuple[Country, ...]:
    """All countries in alphabetical order."""
    with (Path(__file__).parent / "countries.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_country(row) for row in csv.DictReader(file))


def _country(row: dict[str, str]) -> Country:
    aliases = tuple(alias for alias in row["aliases"].split(";") if alias)
    return Country(row["iso"], row["name"], row["article"], row["capital"], row["continent"], aliases)


@cache
def continents() -> tuple[str, ...]:
    """The names of the continents that have countries, in alphabetical order."""
    return tuple(sorted({country.continent for country in load_countries()}))


@cache
def countries_of(continent: str) -> tuple[Country, ...]:
    """The countries of one continent in alphabetical order."""
    return tuple(country for country in load_countries() if country.continent == continent)


@cache
def listing_order(continent: str | None) -> tuple[Country, ...]:
    """The order in which lists name countries: the well-known ones first, then the rest by capital."""
    countries = load_countries() if continent is None else countries_of(continent)

    def rank(country: Country) -> tuple[int, str]:
        known = country.iso in _WELL_KNOWN
        return (_WELL_KNOWN.index(country.iso) if known else len(_WELL_KNOWN), country.capital)

    return tuple(sorted(countries, key=rank))


def without_accents(text: str) -> str:
    """The text as a keyboard without accents writes it: "Bogotá" becomes "Bogota"."""
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(character for character in decomposed if not unicodedata.combining(character))
