"""`python -m launcher.demo.training [--output FOLDER]`: train the demo model, measure it, write its folder."""

import argparse
import itertools
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, Qwen2ForCausalLM

from launcher.demo import model_path
from launcher.demo.training.conversations import document
from launcher.demo.training.evaluate import chat_prompt, generate, is_true_list, measure, table
from launcher.demo.training.packing import make_corpus
from launcher.demo.training.train import MAX_LENGTH, TrainingPlan, new_model, save_model, train
from launcher.demo.training.vocabulary import save_tokenizer, train_tokenizer

_SHARD_SIZE = 20_000
_SAMPLE_SIZE = 60_000


def main() -> None:
    """Everything from the facts to the measured model."""
    arguments = _parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arguments.output.mkdir(parents=True, exist_ok=True)
    tokenizer = _make_tokenizer(arguments.seed, min(_SAMPLE_SIZE, arguments.shards * arguments.shard_size))
    save_tokenizer(tokenizer, arguments.output, MAX_LENGTH)
    corpus = make_corpus(tokenizer, arguments.seed, arguments.shards, arguments.shard_size)
    print(f"{len(corpus.lengths)} documents, {len(corpus.token_ids)} tokens, the longest {corpus.lengths.max()}")
    model = new_model(tokenizer, arguments.seed).to(device)  # type: ignore[arg-type]
    print(f"{model.num_parameters()} parameters, on {device}")
    train(model, corpus.to(device), TrainingPlan(arguments.rounds, arguments.seed))
    save_model(model, arguments.output)
    report(arguments.output, device)


def report(folder: Path, device: torch.device) -> None:
    """Measure the saved model in float32 and print what it gets right and wrong."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map=device)
    scores = measure(model, tokenizer)
    print(table(scores))
    for mistake in itertools.islice((text for score in scores for text in score.mistakes), 40):
        print(f"wrong: {mistake}")
    for number in range(1, 11):
        prompt = chat_prompt(f"List {number} countries and their capitals.")
        answer = generate(model, tokenizer, [prompt], 160)[0]
        print(f"list of {number}: {'true' if is_true_list(answer, number) else answer}")


def _make_tokenizer(seed: int, num_documents: int) -> Tokenizer:
    rng = random.Random(seed)
    documents = (document(rng) for _ in range(num_documents))
    return train_tokenizer("".join(segment.text for segment in segments) for segments in documents)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launcher.demo.training", description=__doc__)
    parser.add_argument("--output", type=Path, default=model_path(), help="the folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5, help="times over the corpus")
    parser.add_argument("--shards", type=int, default=32, help="parts that the corpus is made in, in parallel")
    parser.add_argument("--shard-size", type=int, default=_SHARD_SIZE, help="documents in a part")
    return parser.parse_args()


if __name__ == "__main__":
    main()
