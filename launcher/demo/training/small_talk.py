"""What the demo model says about itself and in passing. The texts stand in small_talk.toml."""

import random

from launcher.demo.training.phrases import load_phrases, phrase, rough

REFUSAL = (
    "Sorry, I am only a small demo model. I know countries, their capitals, continents and flags. "
    "Please ask me for the capital of a country."
)
NO_SUCH_COUNTRY = "Sorry, I know no country of that name."
NO_SUCH_CAPITAL = "Sorry, I know no country with that capital."


def small_talk(rng: random.Random) -> tuple[str, str]:
    """A question about the model itself, or a pleasantry, and the answer."""
    topic = rng.choice(load_phrases("small_talk")["topic"])
    return rough(rng, rng.choice(topic["ask"])), topic["answer"]


def greeting(rng: random.Random) -> tuple[str, str]:
    """How to say hello in some language."""
    language, text = rng.choice(sorted(load_phrases("small_talk")["greetings"].items()))
    return phrase(rng, "greet_in", l=language), text
