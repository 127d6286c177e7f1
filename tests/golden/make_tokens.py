"""Writes tokens.json: token ids of the reference's SimpleTokenizer (PyPI `sam3` 0.1.4) for difficult strings.

Run where the reference is installed:  python tests/golden/make_tokens.py [path of bpe_simple_vocab_16e6.txt.gz]
"""

# ruff: noqa: E501, RUF001

import json
import random
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BPE = ROOT / "src/sam3_hf/assets/bpe_simple_vocab_16e6.txt.gz"
CONTEXT = 32

NOUNS = "yellow school bus|a person in a red coat|striped cat|visual|ear|dial|handle|the player in white|player #7|kitchen table"
PUNCTUATION = "!|!!|!!!|!a|a!|!?|?!|#!|!!a!!|...|…|a.b,c;d:e|(left) [right] {both}|a/b\\c|50% off|$5.99|a&b|a_b_c|snake_case|kebab-case"
PUNCTUATION += "|it's|dog's|DOG'S|we've they're I'm he'd she'll don't|'s|''|\"quoted\"|`code`|~tilde~|^|@home|*bold*|+1|=|<tag>|<|>|^_^|:-)"
NUMBERS = "1|12|123|2024|3.14|1,000,000|1st 2nd 3rd|x2|2x4|0x1F|½ cup|²|Ⅷ|٣٤٥|一二三|①|1e-5|007|-10"
CASE = "CAT|Cat|cAt|ÉCOLE|İstanbul|ISPARTA ıspartalı|ΟΔΟΣ|ΣΊΣΥΦΟΣ|ΑΣ ΒΣ|ẞ straße STRASSE|ǅ|Kelvin K|Å ångström|ﬁ ﬂ ﬀ ﬃ|it'ſ|ſ"
ACCENTS = "café|cafe\u0301|naïve|jalapeño|crème brûlée|Åland|smörgåsbord|Dvořák|Łódź|Reykjavík|São Paulo|Việt Nam|Ελλάδα|Москва|ёлка"
EMOJI = "🐶|🐶🐱|a 🐶 dog|👩‍👩‍👧|👍🏽|🇫🇷|❤️|☺|©|®|™|🫠|🏳️‍🌈|1️⃣|🤖robot"
ENTITIES = "&amp;|&lt;b&gt;|&amp;amp;|&amp;lt;|&nbsp;cat|caf&eacute;|&#39;|&#x1F436;|&quot;cat&quot;|AT&T|&notanentity;|R&D &copy 2020|&amp;amp;amp;"
QUOTES = "“cat”|‘cat’|it’s|dog‘s|«chat»|„Katze“|a–b—c|5′ 6″|`a´|‚x‛"
WIDE = "ＣＡＴ|ｃａｔ|１２３|ｶﾀｶﾅ|カタカナ|ひらがな|漢字|中文 文字|한국어|　全角　空白　|，。！|㍿|㎏|ﾊﾟ"
SCRIPTS = "кошка|γάτα|חתול|قطة|बिल्ली|แมว|แมวสีดำ|կատու|კატა|মাছ|பூனை|ᚠᚢᚦ|𝒞𝒶𝓉|𝕮𝖆𝖙|Ⓒⓐⓣ|ᶜᵃᵗ|ꜰɪꜱʜ"
BROKEN = "schÃ¶n|cafÃ©|â€œcatâ€\u009d|donâ€™t|Ã\xa0 la carte|l’humanitÃ©|\ufffd|\x00|a\x00b|\x07bell|\x1b[31mred\x1b[0m|\ufeffbom|\x85next"
SPACE = " cat|cat |  two  spaces  |tab\tcat|line\nbreak|cr\r\nlf|a\u00a0b|a\u2003b|a\u200bb|a\u200db|a\u2060b|a\u00adb|a\u202eb|\u200b|a\u3000b|a\u0085b"
SPACE += "|a\u2028b|\x1ca\x1fb|a\x0bb\x0cc"
SPECIAL = (
    "<start_of_text>|<end_of_text>|a <end_of_text> b|<|END_OF_TEXT>|<START_OF_TEXT>cat|<end_of_text|cat<end_of_text>s"
)
LONG = [
    "a very small striped ceramic coffee mug with a broken handle standing on the wooden kitchen table near the window behind the red "
    "flower pot",
    "antidisestablishmentarianism " * 12,
    "supercalifragilisticexpialidocious" * 5,
    "a" * 200,
    "!" * 200,
    "!a" * 40,
    "🐶" * 40,
    "1234567890" * 6,
    " ".join(str(n) for n in range(60)),
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen "
    "twenty one two three four five six seven eight nine ten",
    "<|startoftext|>",
    "<|endoftext|>",
    "a <|endoftext|> b",
    "a | b || c",
]


def random_strings(count: int) -> list[str]:
    """Strings drawn from a few blocks of Unicode, always the same."""
    draw = random.Random(0)
    blocks = [
        (0x20, 0x7E),
        (0x20, 0x7E),
        (0xA0, 0x17F),
        (0x370, 0x3FF),
        (0x400, 0x45F),
        (0x2010, 0x2044),
        (0x1F300, 0x1F5FF),
    ]
    return [
        "".join(chr(draw.randint(*draw.choice(blocks))) for _ in range(draw.randint(3, 24))).replace("\u0378", "")
        for _ in range(count)
    ]


def strings() -> list[str]:
    """All test strings, each once."""
    groups = [
        NOUNS,
        PUNCTUATION,
        NUMBERS,
        CASE,
        ACCENTS,
        EMOJI,
        ENTITIES,
        QUOTES,
        WIDE,
        SCRIPTS,
        BROKEN,
        SPACE,
        SPECIAL,
    ]
    return list(dict.fromkeys([text for group in groups for text in group.split("|")] + LONG + random_strings(60)))


def main(bpe: str) -> None:
    """Writes the strings with their ids, without the padding zeros behind the end token."""
    from sam3.model.tokenizer_ve import SimpleTokenizer

    tokenizer = SimpleTokenizer(bpe_path=bpe)
    rows = []
    for text in strings():
        ids = tokenizer([text], context_length=CONTEXT)[0].tolist()
        end = len(ids) - next(back for back, token in enumerate(reversed(ids)) if token == tokenizer.eot_token_id)
        rows.append([text, ids[:end]])
    lines = ",\n".join(json.dumps(row) for row in rows)
    (Path(__file__).parent / "tokens.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1] if len(sys.argv) > 1 else str(BPE))
