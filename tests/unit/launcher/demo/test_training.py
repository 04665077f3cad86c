"""The training data: true to its table, made the same way twice, encoded as the model is served."""

import itertools
import random

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from launcher.demo.training.conversations import Segment, chat, document
from launcher.demo.training.countries import continents, countries_of, listing_order, load_countries
from launcher.demo.training.evaluate import chat_prompt
from launcher.demo.training.lists import pick
from launcher.demo.training.packing import IGNORED, Corpus, batches, encode
from launcher.demo.training.vocabulary import train_tokenizer


def test_the_table_has_every_country_once() -> None:
    countries = load_countries()
    assert len(countries) == 197
    for attribute in ("iso", "name", "capital"):
        assert len({getattr(country, attribute) for country in countries}) == 197


def test_every_country_is_on_one_of_six_continents() -> None:
    assert len(continents()) == 6
    assert sum(len(countries_of(continent)) for continent in continents()) == 197
    assert sorted(country.iso for country in listing_order(None)) == sorted(country.iso for country in load_countries())


def test_a_flag_is_two_regional_indicators() -> None:
    france = next(country for country in load_countries() if country.name == "France")
    assert france.flag == "\U0001f1eb\U0001f1f7"


@pytest.mark.parametrize("number", [1, 10, 197])
def test_a_list_never_names_a_country_twice(number: int) -> None:
    picked = pick(random.Random(number), number)
    assert len({country.iso for country in picked}) == len(picked) == number


def test_the_same_seed_makes_the_same_documents() -> None:
    first, second = random.Random(7), random.Random(7)
    assert [document(first) for _ in range(50)] == [document(second) for _ in range(50)]


def test_a_chat_is_written_as_the_published_template_writes_it(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the capital of Peru?"},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == chat_prompt("What is the capital of Peru?", "Be brief.")


def test_a_chat_ends_every_answer_and_learns_answers_only() -> None:
    rng = random.Random(3)
    for _ in range(200):
        segments = chat(rng)
        assert [segment.is_learned for segment in segments] == [False, True] * (len(segments) // 2)
        assert all(segment.text.endswith("<|im_end|>") for segment in segments if segment.is_learned)
        assert all(segment.text.endswith("assistant\n") for segment in segments if not segment.is_learned)


def test_packing_keeps_documents_whole_and_labels_only_what_is_learned() -> None:
    # Every document counts up from a thousand of its own, so that a cut or a mixture would show.
    lengths = [3 + number % 40 for number in range(300)]
    token_ids = [1000 * (number + 1) + place for number, length in enumerate(lengths) for place in range(length)]
    is_learned = [token_id % 2 == 0 for token_id in token_ids]
    corpus = Corpus(torch.tensor(token_ids), torch.tensor(is_learned), torch.tensor(lengths))

    packed: list[int] = []
    for rows, labels in batches(corpus, torch.Generator().manual_seed(0)):
        for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
            packed += [token_id for token_id in row if token_id]
            assert label == [token_id if token_id and token_id % 2 == 0 else IGNORED for token_id in row]

    assert sorted(packed) == sorted(token_ids)
    for previous, following in itertools.pairwise(packed):
        assert following == previous + 1 or following % 1000 == 0


def test_segments_are_encoded_one_by_one() -> None:
    tokenizer = train_tokenizer(["The capital of France is Paris."] * 3)
    token_ids, is_learned = encode(
        tokenizer, [Segment("The capital of France is", is_learned=False), Segment(" Paris.", is_learned=True)]
    )
    learned = [token_id for token_id, learns in zip(token_ids, is_learned, strict=True) if learns]
    assert tokenizer.decode(learned) == " Paris."
