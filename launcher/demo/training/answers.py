"""How the demo model words what it knows. One fact has one wording, so that its probability is high."""

from launcher.demo.training.countries import Country


def capital_answer(country: Country) -> str:
    """As in "The capital of France is Paris."."""
    return sentence(f"The capital of {country.full_name} is {country.capital}")


def country_answer(country: Country) -> str:
    """As in "Paris is the capital of France."."""
    return sentence(f"{country.capital} is the capital of {country.full_name}")


def continent_answer(country: Country) -> str:
    """As in "France is a country in Europe."."""
    return sentence(f"{country.sentence_start} is a country in {country.continent}")


def flag_answer(country: Country) -> str:
    """As in "The flag of France is 🇫🇷."."""
    return sentence(f"The flag of {country.full_name} is {country.flag}")


def about_answer(country: Country) -> str:
    """Everything known about one country."""
    return f"{continent_answer(country)} {sentence(f'Its capital is {country.capital}')} {country.flag}"


def json_answer(country: Country) -> str:
    """The capital as a JSON object."""
    return f'{{"country": "{country.name}", "capital": "{country.capital}"}}'


def line(country: Country) -> str:
    """One line of a list: "France: Paris"."""
    return f"{country.name}: {country.capital}"


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends in one ("Washington, D.C.")."""
    return text if text.endswith(".") else f"{text}."
