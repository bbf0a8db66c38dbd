"""Positions by other tokenizers than CLIP's: no start token, another one, no offsets, a limit of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from ebama.prompt import Group, PromptError, groups_from_words, parse, words
from ebama.prompt.tokenization import tokenize
from ebama.weights import clip_tokenizer

Span = tuple[int, int]
PROMPT = "a purple crown and a blue suitcase"


def t5() -> Tokenizer:
    """Pieces with their leading space, an end and no start."""
    pieces = ["a", "and", "crown", "blue", "suit", "dog", "pur"]
    letters = [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz,漢"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -5.0), ("ple", -3.0), ("case", -3.0), *letters]
    tokenizer = Tokenizer(models.Unigram([*vocabulary, *((f"▁{piece}", -2.0) for piece in pieces)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def bert() -> Tokenizer:
    """Words in pieces, two tokens before them and one after."""
    pieces = ["[UNK]", "[CLS]", "[SEP]", "a", "crown", "and", "blue", "suit", "##case", "pur", "##ple", "dog", ","]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    template = "[CLS] [CLS] $A [SEP]"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def fast(tokenizer: Tokenizer, limit: int, **options: object) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=limit, pad_token="<pad>", **options)


def by_words(text: str) -> list[Span | None]:
    """A start token, a token for each word, an end, and padding."""
    return [None, *(match.span() for match in re.finditer(r"\w+", text)), None, (0, 0)]


GROUPS = {
    "clip": (clip_tokenizer(), [((3,), ((2,),)), ((7,), ((6,),))], 1),
    "t5": (t5(), [((3,), ((1, 2),)), ((7, 8), ((6,),))], 0),
    "t5 of transformers": (fast(t5(), 512), [((3,), ((1, 2),)), ((7, 8), ((6,),))], 0),
    "bert": (bert(), [((5,), ((3, 4),)), ((9, 10), ((8,),))], 2),
    "function": (by_words, [((3,), ((2,),)), ((7,), ((6,),))], 1),
    # A token for each byte, spaces with the word that follows them; no start.
    "bytes": (
        ByT5Tokenizer(),
        [(tuple(range(8, 14)), (tuple(range(1, 8)),)), (tuple(range(25, 34)), (tuple(range(20, 25)),))],
        0,
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_positions_are_those_of_the_tokenizer_s_own_sequence(name: str) -> None:
    tokenizer, wanted, first = GROUPS[name]
    parsed = parse(PROMPT, tokenizer, "rules")
    assert parsed.groups == tuple(Group(noun, modifiers) for noun, modifiers in wanted)
    assert parsed.tokens == tuple(range(first, wanted[-1][0][-1] + 1))
    assert len(parsed.spans) == len(parsed.tokens)
    assert groups_from_words(PROMPT, [("crown", ["purple"]), ("suitcase", ["blue"])], tokenizer) == list(parsed.groups)
    assert parsed.text(*parsed.groups[0].object).strip() == "crown"
    assert words.find(parsed, "suitcase") == wanted[1][0]
    assert [word.text for word in words.words(parsed)] == PROMPT.split()
    assert [text for _, _, text in parsed.phrases] == [PROMPT, "a purple crown", "a blue suitcase"]
    assert parsed.phrases[1][:2] == (first, wanted[0][0][-1] + 1)


@pytest.mark.parametrize(
    "prompt", ["a  red cat", "\na red\ncat ", "a red\xa0 cat", "a re\u0301d cat", "cafe\u0301  cat"]
)
def test_positions_are_those_of_the_prompt_as_it_is_written(prompt: str) -> None:
    tokenizer = ByT5Tokenizer()  # to which white space is tokens
    parsed = parse(prompt, tokenizer, "rules")
    ids = tokenizer(prompt)["input_ids"]
    (group,) = [group for group in parsed.groups if parsed.text(*group.object).strip() == "cat"]
    assert tokenizer.decode([ids[position] for position in group.object]).strip() == "cat"
    assert len(parsed.tokens) == len(ids) - 1


@pytest.mark.parametrize("text", ["a  漢dog, a\u0301 <|endoftext|> x", "漢", "dog,dog", " a", "a zzz dog"])
@pytest.mark.parametrize("name", GROUPS)
def test_spans_lie_in_the_text_in_order(name: str, text: str) -> None:
    tokens = tokenize(text, GROUPS[name][0])
    ends = [0, *(end for _, end in tokens.spans)]
    assert all(0 <= start <= end <= len(text) for start, end in tokens.spans)
    assert ends == sorted(ends)
    assert len(tokens.ids) == len(tokens.spans)
    assert all(text[start:end] == text[start:end].strip() for start, end in tokens.spans)


def capacities() -> dict[str, tuple[object, int]]:
    """Tokenizers that see 6 tokens of a prompt, or all but 4."""
    cut = t5()
    cut.enable_truncation(7)
    cut.enable_padding(length=12)
    overlapping = bert()
    overlapping.enable_truncation(9, stride=2)
    return {
        "t5": (cut, 6),
        "bert": (overlapping, 6),
        "transformers": (fast(t5(), 7), 6),
        "function": (lambda text: by_words(text)[:7], 6),
    }


@pytest.mark.parametrize("name", capacities())
def test_the_capacity_is_the_tokenizer_s(name: str) -> None:
    tokenizer, capacity = capacities()[name]
    prompt = "a dog and a dog and a dog"
    with pytest.warns(UserWarning, match="it does not see: a dog$"):
        parsed = parse(prompt, tokenizer, "rules", groups=[("dog", [])])  # type: ignore[arg-type]
    assert len(parsed.tokens) == capacity
    with pytest.warns(UserWarning, match="not see"), pytest.raises(PromptError, match="'dog' lies beyond the 6 tokens"):
        parse(prompt, tokenizer, "rules")  # type: ignore[arg-type]
    assert len(parse("a dog and a dog and", tokenizer, "rules").tokens) == capacity  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_tokenizer_without_a_limit_cuts_nothing() -> None:
    prompt = "a dog and " * 300 + "a dog"
    for tokenizer in (t5(), fast(t5(), 10**30), by_words):
        assert len(parse(prompt, tokenizer, "rules").groups) == 301


@pytest.mark.slow
def test_long_clip_is_read_to_its_end() -> None:
    backend = Tokenizer.from_str(clip_tokenizer().backend_tokenizer.to_str())
    backend.enable_truncation(248)
    prompt = "very " * 200 + "red dog"
    parsed = parse(prompt, backend, "rules")
    assert parsed.groups[0].object == (202,)
    assert len(parse("very " * 244 + "red dog", backend, "rules").tokens) == 246
    with pytest.warns(UserWarning, match="246 of this prompt's 247 tokens; it does not see: dog$"):
        parse("very " * 245 + "red dog", backend, "rules", groups=[])


def test_reading_changes_nothing_in_a_tokenizer() -> None:
    cut = t5()
    cut.enable_truncation(7)
    cut.enable_padding(length=12)
    wrapped = fast(t5(), 7)
    wrapped.backend_tokenizer.enable_truncation(3)
    states = [(one.truncation, one.padding) for one in (cut, wrapped.backend_tokenizer)]
    for tokenizer in (cut, wrapped):
        assert (
            tokenize("a dog and a dog and a dog", tokenizer).spans == tokenize("a dog and a dog and a dog", t5()).spans
        )
    assert states == [(one.truncation, one.padding) for one in (cut, wrapped.backend_tokenizer)]


def test_letters_that_a_tokenizer_drops_are_no_words() -> None:
    tokenizer = Tokenizer(models.BPE({"d": 0, "o": 1, "g": 2}, []))  # no token stands for what is unknown
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert parse("a sky god", tokenizer, "rules").groups == (Group((0, 1, 2)),)
    with pytest.raises(PromptError, match="no token for 'a'"):
        parse("a god", tokenizer, "rules", groups=[("a", [])])


def left_truncated() -> Tokenizer:
    tokenizer = t5()
    tokenizer.enable_truncation(7, direction="left")
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (fast(t5(), 7, padding_side="left"), "pads or cuts on the left"),
        (left_truncated(), "pads or cuts on the left"),
        (lambda text: [(0, 3), (2, 1000)], "expected characters"),
        (lambda text: [(4, 6), (0, 3)], "in order"),
        (lambda text: [None], "the prompt is empty"),
        (5, "the tokenizer is a int"),
    ],
)
def test_tokenizers_that_say_no_positions_are_refused(tokenizer: object, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        parse("a dog and a cat", tokenizer, "rules")  # type: ignore[arg-type]


class _Unsteady(ByT5Tokenizer):
    """Whose tokens for a word depend on what comes after it."""

    def __call__(self, text: str, **options: object) -> dict[str, Sequence[int]]:  # type: ignore[override]
        return {"input_ids": [len(text), 1], "special_tokens_mask": [0, 1]}


def test_a_tokenizer_without_characters_whose_tokens_depend_on_the_rest_is_refused() -> None:
    with pytest.raises(PromptError, match="take its fast version"):
        parse("a dog", _Unsteady(), "rules")


@pytest.mark.parametrize("answer", [["a", "car"], [3, 4], [(0,), (2,)], [(0.5, 1.5)], 7, [("a", "b")]], ids=str)
def test_functions_that_give_no_spans_are_refused_by_what_they_gave(answer: Any) -> None:
    with pytest.raises(PromptError, match=r"the tokenizer gave .* for 'a car': expected for each position"):
        parse("a car", lambda text: answer)
