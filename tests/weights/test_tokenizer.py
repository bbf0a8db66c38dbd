"""The CLIP tokenizer: known ids, an independent byte-pair encoder, and folders of both formats."""

from __future__ import annotations

import copy
import gzip
import json
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
from weights_samples import small_tokenizer

from ebama.weights import CheckpointError, clip_tokenizer
from ebama.weights.tokenizer import read_tokenizer, token_rows

START, END = 49406, 49407


def test_tokenizer_gives_the_known_ids() -> None:
    tokenizer = clip_tokenizer()
    known = {
        "a purple crown and a blue suitcase": [320, 5496, 6902, 537, 320, 1746, 27792],
        "a cat and a frog": [320, 2368, 537, 320, 11438],
        "A person riding a motorcycle": [320, 2533, 6765, 320, 10297],
        "": [],
    }
    for text, ids in known.items():
        assert tokenizer(text)["input_ids"] == [START, *ids, END]


def test_tokenizer_has_clip_s_size_limit_and_markers() -> None:
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408
    assert tokenizer.model_max_length == 77
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (START, END, END)
    assert clip_tokenizer() is tokenizer


def test_tokenizer_pads_and_truncates_to_77() -> None:
    empty, long = clip_tokenizer()(["", "crown " * 200], padding="max_length", truncation=True)["input_ids"]
    assert empty == [START] + [END] * 76
    assert long == [START] + [6902] * 75 + [END]


def test_every_byte_has_a_token() -> None:
    tokenizer = clip_tokenizer()
    text = "żółw 🐢 と ₿"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).replace(" ", "") == text.replace(
        " ", ""
    )


def _merges() -> list[str]:
    packed = resources.files("ebama.weights").joinpath("clip_merges.txt.gz").read_bytes()
    assert packed[4:8] == b"\0\0\0\0", "the archive should not hold a time"
    return gzip.decompress(packed).decode().split("\n")[:-1]


def test_merges_ship_with_their_licence() -> None:
    merges = _merges()
    assert len(merges) == 48894
    assert (merges[0], merges[-1]) == ("i n", "jeky ll</w>")
    licence = resources.files("ebama.weights").joinpath("licenses", "CLIP-LICENSE.txt").read_text()
    assert "MIT License" in licence
    assert "OpenAI" in licence


def test_words_equal_an_independent_byte_pair_encoder() -> None:
    merges = _merges()
    ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(merges)}
    joined = {line.replace(" ", ""): 512 + rank for rank, line in enumerate(merges)}
    # ASCII letters are their own symbols and come at their byte's offset from "!" (33).
    for word in ("suitcase", "motorcycle", "antidisestablishmentarianism", "xqzvk", "tesla"):
        tokens = [*word[:-1], word[-1] + "</w>"]
        while True:
            pairs = [(ranks[pair], i) for i, pair in enumerate(pairwise(tokens)) if pair in ranks]
            if not pairs:
                break
            _, i = min(pairs)
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
        expected = []
        for token in tokens:
            bare = token.removesuffix("</w>")
            single = ord(bare) - 33 + (256 if token != bare else 0) if len(bare) == 1 else None
            expected.append(joined[token] if single is None else single)
        assert clip_tokenizer()(word)["input_ids"] == [START, *expected, END]


def _old_format(folder: Path) -> None:
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(clip_tokenizer().get_vocab()), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(_merges()) + "\n", encoding="utf-8")


@pytest.mark.slow
def test_tokenizer_folder_of_the_old_format_is_read(tmp_path: Path) -> None:
    _old_format(tmp_path / "tokenizer")
    tokenizer = read_tokenizer(tmp_path / "tokenizer", 49408, 77)
    assert tokenizer.model_max_length == 77
    for text in ("a purple crown and a blue suitcase", "Don't!", "crown " * 200):
        assert tokenizer(text, truncation=True)["input_ids"] == clip_tokenizer()(text, truncation=True)["input_ids"]


@pytest.mark.slow
def test_tokenizer_folder_of_the_new_format_is_read(tmp_path: Path) -> None:
    clip_tokenizer().save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    tokenizer = read_tokenizer(tmp_path, 49408, 77)
    text = "a purple crown and a blue suitcase"
    assert tokenizer(text)["input_ids"] == clip_tokenizer()(text)["input_ids"]


def test_words_stand_at_the_left_whatever_the_folder_says(tmp_path: Path) -> None:
    vocabulary = small_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"padding_side": "left"}))
    tokenizer = read_tokenizer(tmp_path, len(vocabulary), 77)
    assert tokenizer("a crown", padding="max_length")["input_ids"][0] == vocabulary["<|startoftext|>"]


def test_further_vectors_of_a_word_are_told(tmp_path: Path) -> None:
    vocabulary = small_tokenizer(tmp_path)
    added = {token: len(vocabulary) + k for k, token in enumerate(("<cat>", "<cat>_1", "<dog>"))}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    with pytest.warns(UserWarning, match=r"further vectors of '<cat>', which a prompt names .*'<cat> <cat>_1'"):
        read_tokenizer(tmp_path, len(vocabulary) + 3, 77)


def test_folders_without_a_clip_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        read_tokenizer(tmp_path, 49408, 77)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        read_tokenizer(tmp_path, 49408, 77)
    small = tmp_path / "small"
    small.mkdir()
    (small / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}))
    (small / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(CheckpointError, match="holds 2 tokens"):
        read_tokenizer(small, 49408, 77)
    large = small_tokenizer(small)
    with pytest.raises(CheckpointError, match="table has 900 rows"):
        read_tokenizer(small, 900, 77)
    assert len(read_tokenizer(small, len(large) + 63, 77)) == len(large)  # a table padded to a round number
    for rows in (49408, 2 * len(large)):
        with pytest.raises(
            CheckpointError, match=rf"holds 914 tokens, .* expected {int(0.9 * rows)} or more.*{rows} rows"
        ):
            read_tokenizer(small, rows, 77)
    (small / "vocab.json").write_text(json.dumps(large | {"the</w>": 60000}))
    with pytest.raises(CheckpointError, match=r"the last with id 60000; .* table has 49408 rows"):
        read_tokenizer(small, 49408, 77)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"merges.txt": "#version: 0.2\n"}, r"does not know its own words \('\w+' becomes \d+ tokens\)"),
        ({"tokenizer_config.json": '{"eos_token": "!"}'}, r"puts \['<\|startoftext\|>', '!'\] around a text"),
        ({"tokenizer_config.json": '{"bos_token": "the</w>"}'}, r"around a text; expected <\|startoftext\|> before it"),
        ({"vocab.json": "no start"}, "around a text"),
        ({"vocab.json": "all alike"}, "around a text|own words"),
    ],
)
def test_a_tokenizer_that_reads_something_else_is_refused(changes: dict[str, str], said: str, tmp_path: Path) -> None:
    vocabulary = small_tokenizer(tmp_path)
    stand_ins = {
        "no start": {token: i for token, i in vocabulary.items() if token != "<|startoftext|>"},
        "all alike": {token: min(i, 600) for token, i in vocabulary.items()},
    }
    assert len(read_tokenizer(tmp_path, len(vocabulary), 77)) == len(vocabulary)
    for name, content in changes.items():
        (tmp_path / name).write_text(json.dumps(stand_ins[content]) if content in stand_ins else content)
    with pytest.raises(CheckpointError, match=said):
        read_tokenizer(tmp_path, len(vocabulary), 77)


@pytest.mark.parametrize("direction", ["Left", "Right"])
def test_words_keep_their_order_though_a_folder_cuts_texts(direction: str, tmp_path: Path) -> None:
    size = len(small_tokenizer(tmp_path))
    plain = read_tokenizer(tmp_path, size, 77)
    plain.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    stored["truncation"] = {"direction": direction, "max_length": 5, "strategy": "LongestFirst", "stride": 2}
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"truncation_side": direction.lower()}))
    tokenizer, text = read_tokenizer(tmp_path, size, 77), "a purple crown and a blue suitcase"
    assert token_rows(tokenizer, [text], 77) == token_rows(plain, [text], 77)
    long = "crown " * 100 + "cat"
    assert tokenizer(long, truncation=True)["input_ids"] == plain(long, truncation=True)["input_ids"]


TEXTS = [
    "",
    "a purple crown",
    "crown " * 200,
    "a cat 😂😂 漢字",
    "crown " * 75,
    "crown " * 76,
    "a <|endoftext|> b",
    "Don't!",
]


@pytest.mark.slow
@pytest.mark.parametrize("length", [77, 16, 248])
def test_rows_are_what_the_tokenizer_pads_and_cuts(length: int) -> None:
    own = copy.deepcopy(clip_tokenizer())
    expected = own(TEXTS, padding="max_length", truncation=True, max_length=length)["input_ids"]
    assert token_rows(clip_tokenizer(), TEXTS, length) == expected


@pytest.mark.slow
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("stride", [0, 3])
def test_rows_do_not_depend_on_the_state_of_a_tokenizer_nor_change_it(side: str, stride: int) -> None:
    own = copy.deepcopy(clip_tokenizer())
    own.backend_tokenizer.enable_truncation(9, stride=stride)
    own.backend_tokenizer.enable_padding(direction=side, length=20)
    state = own.backend_tokenizer.truncation, own.backend_tokenizer.padding
    assert token_rows(own, TEXTS, 77) == token_rows(clip_tokenizer(), TEXTS, 77)
    assert (own.backend_tokenizer.truncation, own.backend_tokenizer.padding) == state


@pytest.mark.slow
def test_the_limit_is_the_text_encoder_s() -> None:
    assert clip_tokenizer(248).model_max_length == 248
    assert clip_tokenizer(248)("a crown")["input_ids"] == clip_tokenizer()("a crown")["input_ids"]
    assert clip_tokenizer().model_max_length == 77
