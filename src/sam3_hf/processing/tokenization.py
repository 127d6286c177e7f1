"""Phrases to token ids, equal to the reference's `SimpleTokenizer` (lower-cased CLIP byte-pair encoding).

Cleaning and word splitting are done here, because those of transformers' CLIPTokenizer differ (no ftfy, no HTML
entities, another treatment of special tokens, another Unicode table); only the merging of a word's bytes is left to its
BPE model.
"""

import gzip
import html
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, cast

import ftfy
import regex
import torch
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

__all__ = ["CONTEXT_LENGTH", "clean_phrase", "clip_tokenizer", "encode_phrase", "tokenize_phrases"]

CONTEXT_LENGTH = 32
# 49152 entries as CLIP was trained with: 2 x 256 bytes (with and without end of word), the merges, and 2 special tokens
# that bring the vocabulary to 49408.  The file holds more merges than were used.
_NUM_MERGES = 49152 - 256 - 2
_SPECIAL_WORDS = ("<start_of_text>", "<end_of_text>")
_WORD = regex.compile(
    "|".join(_SPECIAL_WORDS) + r"|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


def _byte_alphabet() -> list[str]:
    """One printable character for each byte: itself where it is printable, else the next free one from 256 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


_BYTE_ALPHABET = _byte_alphabet()


def clip_tokenizer() -> CLIPTokenizer:
    """A new transformers tokenizer made from the packaged CLIP merges (49408 tokens, context 32)."""
    vocabulary, merges = _clip_vocabulary()
    # Pairs, although CLIPTokenizer's annotation says strings: "a b" is what it takes only when it reads a file.
    return CLIPTokenizer(vocab=dict(vocabulary), merges=cast(Any, list(merges)), model_max_length=CONTEXT_LENGTH)


@lru_cache(maxsize=1)
def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    packed = files("sam3_hf").joinpath("assets", "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n", _NUM_MERGES + 1)[1 : _NUM_MERGES + 1]
    pairs = [line.split(" ", 1) for line in lines]
    merges = [(first, second) for first, second in pairs]
    letters = sorted(_BYTE_ALPHABET)  # the vocabulary lists printable bytes first, then the spare characters
    words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: index for index, word in enumerate(words)}, merges


def clean_phrase(phrase: str) -> str:
    """The phrase as the model reads it: encoding faults mended, HTML entities resolved, single spaces, lower case."""
    plain = phrase.isascii() and phrase.isprintable() and "&" not in phrase  # nothing to mend: most phrases
    return _single_spaces(phrase if plain else _mended(phrase)).lower()


def _mended(phrase: str) -> str:
    return html.unescape(html.unescape(ftfy.fix_text(phrase)))  # twice, as CLIP did: web text is often escaped twice


def _single_spaces(phrase: str) -> str:
    return regex.sub(r"\s+", " ", phrase).strip()


def encode_phrase(phrase: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of one phrase, without start and end tokens and of any length; empty where nothing is left to read."""
    return _encode(phrase, tokenizer.backend_tokenizer.model, int(tokenizer.bos_token_id), int(tokenizer.eos_token_id))


def _encode(phrase: str, model: Any, start: int, end: int) -> list[int]:
    special = dict(zip(_SPECIAL_WORDS, (start, end), strict=True))
    ids: list[int] = []
    for word in _WORD.findall(clean_phrase(phrase)):
        if word in special:
            ids.append(special[word])
        else:
            ids += [
                token.id for token in model.tokenize("".join(_BYTE_ALPHABET[byte] for byte in word.encode("utf-8")))
            ]
    return ids


def tokenize_phrases(
    phrases: Sequence[str], tokenizer: PreTrainedTokenizerBase, context_length: int = CONTEXT_LENGTH
) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` (num_phrases, context_length) int64: start token, phrase, end token, padding.

    A phrase that is too long is cut so that the end token stays last, with a warning that quotes what is kept.
    """
    model = tokenizer.backend_tokenizer.model
    start, end, pad = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
    input_ids, attention_mask = [], []
    for phrase in phrases:
        ids = _truncated(phrase, _encode(phrase, model, start, end), tokenizer, context_length - 2)
        ids = [start, *ids, end]
        unused = context_length - len(ids)
        input_ids.append(ids + [pad] * unused)
        # The reference pads with 0 and masks every 0, hence also a genuine token 0 (a "!" within
        # punctuation).
        attention_mask.append([int(token != 0) for token in ids] + [0] * unused)
    return {"input_ids": torch.tensor(input_ids), "attention_mask": torch.tensor(attention_mask)}


def _truncated(phrase: str, ids: list[int], tokenizer: PreTrainedTokenizerBase, room: int) -> list[int]:
    if len(ids) > room:
        kept = tokenizer.decode(ids[:room])
        warnings.warn(
            f"the phrase {phrase[:60]!r}{'...' if len(phrase) > 60 else ''} has {len(ids)} tokens, the model reads "
            f"{room}: only {kept!r} is kept. Use a shorter noun phrase.",
            stacklevel=4,
        )
    return ids[:room]
