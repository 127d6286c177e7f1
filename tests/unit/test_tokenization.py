"""Token ids against those of the reference (golden/tokens.json, made by golden/make_tokens.py)."""

import json
import warnings
from pathlib import Path

import pytest

from sam3_hf.processing import tokenization
from sam3_hf.processing.tokenization import clean_phrase, clip_tokenizer, encode_phrase, tokenize_phrases

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/tokens.json").read_text())
START, END = 49406, 49407


@pytest.fixture(scope="module")
def tokenizer():
    return clip_tokenizer()


@pytest.mark.filterwarnings("ignore:the phrase")
@pytest.mark.parametrize("phrase, ids", GOLDEN, ids=[f"{index}" for index in range(len(GOLDEN))])
def test_ids_equal_the_references(tokenizer, phrase, ids):
    got = tokenize_phrases([phrase], tokenizer)["input_ids"][0].tolist()
    assert got == ids + [END] * (32 - len(ids))


def test_the_goldens_are_many_and_reach_the_context():
    assert len(GOLDEN) > 250
    assert sum(len(ids) == 32 for _, ids in GOLDEN) >= 5


def test_vocabulary_is_clips(tokenizer):
    assert len(tokenizer) == 49408
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (START, END)


@pytest.mark.parametrize("phrase, _", [row for row in GOLDEN if row[0].isascii()])
def test_plain_phrases_skip_the_mending_without_a_difference(monkeypatch, phrase, _):
    quick = clean_phrase(phrase)
    assert quick == tokenization._single_spaces(tokenization._mended(phrase)).lower()


def test_mask_covers_start_phrase_and_end(tokenizer):
    mask = tokenize_phrases(["cat", "yellow school bus"], tokenizer)["attention_mask"]
    assert mask.sum(1).tolist() == [3, 5]
    assert mask[0, :3].tolist() == [1, 1, 1]


def test_a_genuine_token_0_is_masked_as_in_the_reference(tokenizer):
    encoded = next(tokenize_phrases([phrase], tokenizer) for phrase, ids in GOLDEN if 0 in ids)
    position = encoded["input_ids"][0].tolist().index(0)
    assert encoded["attention_mask"][0, position] == 0
    assert encoded["attention_mask"][0, position + 1] == 1


def test_a_long_phrase_is_cut_with_a_warning_that_quotes_what_is_kept(tokenizer):
    phrase = " ".join(f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
    with pytest.warns(
        UserWarning, match=r"'worda wordb.*\.\.\. has 51 tokens, the model reads 30: only 'worda .* wordo' is kept"
    ):
        encoded = tokenize_phrases([phrase], tokenizer)
    assert encoded["input_ids"].shape == (1, 32)
    assert encoded["input_ids"][0, -1] == END
    assert encoded["attention_mask"].all()


def test_a_phrase_that_just_fits_is_not_warned_about(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded = tokenize_phrases(["cat " * 30], tokenizer)
    assert encoded["input_ids"][0, -1] == END


@pytest.mark.parametrize("phrase", ["", "  \t\n", "&nbsp;", "\u00a0 \u3000"])
def test_nothing_to_read_gives_no_ids(tokenizer, phrase):
    assert encode_phrase(phrase, tokenizer) == []
