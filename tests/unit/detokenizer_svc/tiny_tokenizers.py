"""Tiny tokenizers of every shape that published models have, made in a moment."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ["<|end|>", "<|start|>"]


def byte_level(*, in_sequence: bool = False) -> Tokenizer:
    """Byte-level BPE as in GPT-2 and Qwen: all bytes, some merges, special and other added tokens."""
    vocab = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for left, right in [
        ("l", "l"),
        ("e", "ll"),
        ("Ġ", "w"),
        ("ä", "½"),
        ("ð", "Ł"),
        ("ĺ", "Ģ"),
        ("Ċ", "Ċ"),
        ("Ã", "©"),
    ]:
        merges.append((left, right))
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel()]) if in_sequence else decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    # The é is a byte of the alphabet, the others are their own text: spaces and kanji are outside of it.
    tokenizer.add_tokens([AddedToken("<tool call>"), AddedToken("日本", normalized=False), AddedToken("é")])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """SentencePiece BPE as in Llama 2 and Mistral: metaspace, bytes as tokens, one leading space stripped."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for piece in ["▁", "▁▁", "▁Hello", "▁world", "!", "he", "llo", "▁a", "é", "日", "\n"]:
        vocab[piece] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def metaspace() -> Tokenizer:
    """Unigram with metaspace as in T5 and XLM-R."""
    pieces = ["<pad>", "</s>", "▁", "▁the", "▁cat", "s", "▁sat", ".", "é", "▁日本"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=0))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    return tokenizer


def word_piece() -> Tokenizer:
    """WordPiece as in BERT: pieces with ##, spaces made by the decoder."""
    words = ["[UNK]", "[SEP]", "un", "##able", "##s", "cat", ".", "'"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens(["[UNK]", "[SEP]"])
    return tokenizer


def without_decoder() -> Tokenizer:
    """Whole words and no decoder at all: tokens are joined with spaces."""
    tokenizer = Tokenizer(models.WordLevel({"one": 0, "two": 1, "three": 2}, unk_token="one"))
    tokenizer.add_special_tokens(["<s>", "<e>"])
    return tokenizer


ALL = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "metaspace": metaspace,
    "word_piece": word_piece,
    "without_decoder": without_decoder,
}
