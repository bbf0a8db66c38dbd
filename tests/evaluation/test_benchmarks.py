"""The prompts of benchmarks: published ones by name, own ones from files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from ebama.evaluation.benchmarks import BenchmarkPrompt, ane_objects, dvmp, load, load_ane


def test_attend_and_excite_has_its_sets_in_order() -> None:
    prompts = load("ane")
    sizes = {name: sum(prompt.set == name for prompt in prompts) for name in ("animals", "animals_objects", "objects")}
    assert sizes == {"animals": 66, "animals_objects": 144, "objects": 66}
    assert len({prompt.text for prompt in prompts}) == len(prompts) == 276
    assert [prompt.text for prompt in load("ane:objects")] == load_ane()["objects"]


def test_the_list_of_dvmp_is_what_its_generator_makes() -> None:
    shipped = [prompt.text for prompt in load("dvmp")]
    assert shipped == dvmp.prompts(200, seed=0)
    assert len(set(shipped)) == 200
    assert dvmp.prompts(20, seed=1) != shipped[:20]


def test_phrases_of_dvmp_follow_its_rules() -> None:
    rng = random.Random(3)
    counts = {1: 0, 2: 0, 3: 0}
    for _ in range(600):
        text, phrases = dvmp.sample(rng)
        counts[len(phrases)] += 1
        assert len({(noun, *words) for noun, words in phrases}) == len(phrases)
        for phrase, (noun, words) in zip(text.split(" and "), phrases, strict=True):
            article = "an" if words[0][0] in "aeiou" else "a"
            assert phrase == f"{article} {' '.join(words)} {noun}"
            assert 1 <= len(words) <= 3
            assert len(set(words)) == len(words)
    assert all(150 < count < 250 for count in counts.values())  # uniform


def test_prompts_for_choosing_options_are_not_in_the_benchmark() -> None:
    found = load("tuning:12")
    assert [prompt.set for prompt in found] == [name for name in load_ane() for _ in range(12)]
    texts = {prompt.text for prompt in found}
    assert len(texts) == 36
    assert not texts & {prompt.text for prompt in load("ane")}
    for prompt in found:
        colours = [colour is not None for _, colour in ane_objects(prompt.text)]
        assert colours in {"animals": [[False] * 2], "objects": [[True] * 2]}.get(
            prompt.set, [[False, True], [False] * 2]
        )
    assert load("tuning:12") == found
    with pytest.raises(ValueError, match="no benchmark 'tuning:x'"):
        load("tuning:x")


def test_every_noun_of_the_miniature_alone() -> None:
    found = load("singles")
    assert [prompt.text for prompt in found if prompt.set == "animals"][:2] == ["a cat", "a dog"]
    assert [prompt.text for prompt in found if prompt.set == "objects"][:2] == ["a backpack", "a glasses"]
    assert len({prompt.text for prompt in found if prompt.set == "coloured"}) == 12 * 11
    assert len({prompt.text for prompt in found}) == len(found) == 156


def test_files_of_lines_and_of_json(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    entry = {"prompt": "a cat and a dog", "set": "pets", "groups": [["cat", ["furry"]], ["dog", []]]}
    path.write_text(f"a red car\n\n{json.dumps(entry)}\n  a red car  \n", encoding="utf-8")
    assert load(path) == [
        BenchmarkPrompt("mine", "a red car"),
        BenchmarkPrompt("pets", "a cat and a dog", (("cat", ("furry",)), ("dog", ()))),
    ]


@pytest.mark.parametrize(
    "line",
    [
        *('{"prompt": ""}', '{"set": "a"}', '{"prompt": 3}', "{", '{"prompt": "a", "groups": 3}'),
        *('{ "prompt": "a', "{}", "{'prompt': 'a cat'}"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f"a cat\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^Line 2 of .*mine\.jsonl is no prompt; expected"):
        load(path)


@pytest.mark.parametrize("line", ["{red} car and a blue bowl", "{ red | blue } car", "{{a cat}}", "  {1-2$$a|b} dog"])
def test_a_prompt_may_begin_with_a_brace(line: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f'{line}\n{{"prompt": "a cat"}}\n')
    assert [prompt.text for prompt in load(tmp_path / "list.txt")] == [line.strip(), "a cat"]


def test_what_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no benchmark 'none'; give ane"):
        load("none")
    with pytest.raises(ValueError, match="has no set 'cars'; it has animals, animals_objects, objects"):
        load("ane:cars")
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(ValueError, match="holds no prompts"):
        load(tmp_path / "empty")
    lists = (b'["a cat", "a dog"]', b'[\n "a cat",\n "a dog"\n]\n')
    for content in (b"\xff\xfe\x00", "a cat\n".encode("utf-16-le"), b"a\0 cat", *lists):
        (tmp_path / "binary").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a text of prompts: "):
            load(tmp_path / "binary")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_in_any_system(end: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(f"[a cat]{end}a dog{end}{end}a red\u2028car{end}".encode())
    assert [prompt.text for prompt in load(tmp_path / "list.txt")] == ["[a cat]", "a dog", "a red\u2028car"]


@pytest.mark.parametrize(
    "text", ["a cat and a dog\na red car\n", '{"prompt": "a cat and a dog"}\n{"prompt": "a red car"}\n']
)
def test_a_byte_order_mark_is_no_part_of_the_first_prompt(text: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text, encoding="utf-8-sig")
    assert [prompt.text for prompt in load(tmp_path / "list.txt")] == ["a cat and a dog", "a red car"]


@pytest.mark.parametrize(
    "groups", ['[["car", "red"]]', '[["car", ["red", 1]]]', '[[1, ["red"]]]', '["car"]', '[["car"]]', '"car"', "{}x"]
)
def test_groups_of_another_form_are_named_with_their_line(groups: str, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(f'{{"prompt": "a cat"}}\n{{"prompt": "a red car", "groups": {groups}}}\n')
    with pytest.raises(ValueError, match=r"Line 2 of .*list\.jsonl is no prompt"):
        load(tmp_path / "list.jsonl")


def test_more_tuning_prompts_than_there_are_is_said_at_once() -> None:
    assert len(load("tuning:66")) == 3 * 66
    for count in (67, 10**6):
        with pytest.raises(ValueError, match=f"tuning:{count} asks for more .* at most 66"):
            load(f"tuning:{count}")
