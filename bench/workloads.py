"""The workloads of the GPU benchmarks by name: what is asked, and how many ask at once."""

import random
from dataclasses import dataclass

MAX_TOKEN_ID = 150_000


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: prompt ids, and exactly so many tokens at this temperature."""

    prompt_ids: list[int]
    num_tokens: int
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """Rounds of requests; those of a round are asked at once, the next round when all are answered."""

    name: str
    rounds: list[list[Ask]]

    @property
    def num_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(ask.num_tokens for asks in self.rounds for ask in asks)


NAMES = ("s1", "s64", "s256", "nano", "p2048")


def workload(name: str, seed: int) -> Workload:
    """A workload with prompts that no other seed has, so that no prefix cache helps.

    `s1`: one stream, 4 requests in a row; `s64`, `s256`: so many at once; all 128 tokens in and 256 out, greedy.
    `nano`: 256 at once, lengths in and out uniform in 100 to 1024, temperature 0.6. `p2048`: prompts of 2,048 tokens,
    one after the other, for the time to the first token.
    """
    source = random.Random(f"{name} {seed}")

    def prompt(length: int) -> list[int]:
        return [source.randrange(MAX_TOKEN_ID) for _ in range(length)]

    if name == "nano":
        lengths = random.Random(0)
        sizes = [(lengths.randint(100, 1024), lengths.randint(100, 1024)) for _ in range(256)]
        return Workload(name, [[Ask(prompt(num_in), num_out, 0.6) for num_in, num_out in sizes]])
    if name == "p2048":
        return Workload(name, [[Ask(prompt(2048), 2)] for _ in range(10)])
    num_streams, num_rounds = {"s1": (1, 4), "s64": (64, 1), "s256": (256, 1)}[name]
    return Workload(name, [[Ask(prompt(128), 256) for _ in range(num_streams)] for _ in range(num_rounds)])
