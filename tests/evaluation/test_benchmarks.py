"""The prompts of benchmarks: published ones by name, own ones from files."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from ebama.boxes import Box
from ebama.evaluation.benchmarks import BenchmarkPrompt, ane_objects, dvmp, load, load_ane, similar
from ebama.weights.miniature.world import ANIMALS, OBJECTS


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


@pytest.mark.parametrize(
    "header",
    [
        *("prompt", "prompt,seed", "Prompts,Category", '"id","prompt"', "Prompt\tCategory\tNote", "id,prompt\r"),
        *("id;prompt;seed", "Prompt Text,Seed", "seed;text_prompt", "prompt_id,prompt"),
    ],
)
def test_the_header_of_a_table_is_no_prompt(header: str, tmp_path: Path) -> None:
    (tmp_path / "table.txt").write_text(f"{header}\na red car,1\n")
    with pytest.raises(ValueError, match=r"table\.txt cannot be read.* its first line names columns of a table"):
        load(str(tmp_path / "table.txt"))


def test_tables_of_one_column_are_prompts(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text('"a red car, a blue bowl"\r\n\r\na cat\r\n"a ""red"" dog"\r\n')
    assert [prompt.text for prompt in load(str(path))] == ["a red car, a blue bowl", "a cat", 'a "red" dog']
    for name, text in (
        ("metadata.csv", "file_name,text\n1.png,a red car\n"),
        ("list.csv", "1,a red car\n"),
        ("list.tsv", "a red car\t3\n"),
        ("list.csv", "a red car, a blue bowl\n"),
        ("list.csv", "a red car;1\r\na cat;2\r\n"),
        ("list.csv", "a red car\t1\na cat\t2\n"),
        ("list.csv", "a red car;1\na cat;2\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name} cannot be read.*table of several columns; write one prompt"):
            load(str(tmp_path / name))
    for header in ("caption", "text", "Prompt", "prompt;seed", "0", "sep=;"):
        path.write_text(f"{header}\na red car\n")
        with pytest.raises(ValueError, match=r"list\.csv cannot be read.*its first line names (a column|columns)"):
            load(str(path))
    (tmp_path / "list.tsv").write_text('"Hello on a sign\na cat\n"big" dog\n')
    with pytest.raises(ValueError, match=r"list\.tsv cannot be read.* its quotes are no table's .* in a \.txt file"):
        load(str(tmp_path / "list.tsv"))
    path.write_bytes("a red car\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"list\.csv cannot be read.*save it in UTF-8"):
        load(str(path))


@pytest.mark.parametrize(
    "text",
    ["<!DOCTYPE html>\n<p>a car", "\n<html>", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1"],
)
def test_what_came_in_place_of_a_list_is_no_prompt(text: str, tmp_path: Path) -> None:
    for name in ("list.txt", "list.csv"):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name} cannot be read.*a web page, its error or a Git LFS pointer"):
            load(str(tmp_path / name))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{\\rtf1\\ansi\\f0 a red car\\\na cat}", "it is rich text; save it as plain text"),
        (
            'a cat\n--prompt "a red car" --negative_prompt "dog" --steps 20',
            "options or a comment of a program, '--prompt'",
        ),
        ('[\n  "a red car",\n  "a dog",\n]\n', "it is one JSON list; write one prompt a line"),
        ("a cat --n blurry --w 512 --h 512 --s 28\n", "options or a comment of a program, '--n '"),
        ("a dog\n# animals\na cat\n", "line 2 has options or a comment of a program, '# '"),
        (
            "a cat\nNegative prompt: a dog\nSteps: 20, Sampler: DDIM\n",
            "line 2 has options or a comment of a program, 'Negative prompt:'",
        ),
        ("1000.jpg#0\ta cat\n1000.jpg#1\ta dog\n", "each with a prompt; leave these out"),
        ("     1\ta red car\n     2\ta dog\n", "each with a prompt; leave these out"),
        ("a red car --ar 16:9 --v 6\n", "line 1 has options or a comment of a program, '--ar '"),
        ("a cat\n/imagine prompt: a red car\n", "line 2 has options or a comment of a program, '/imagine'"),
        ("a cat\n// animals\n", "line 2 has options or a comment of a program, '// '"),
        ('"a red car",\n"a dog"\n', "its lines are in quotes with commas after them"),
        ("1. a red car\n2. a dog\n", "each with a prompt; leave these out"),
        ("a red car –ar 4:5\n", "line 1 has options or a comment of a program, '–ar 4'"),
        ("a cat\na red car —v 6 —style raw\n", "line 2 has options or a comment of a program, '—v 6'"),
        ("a red car --p\n", "line 1 has options or a comment of a program, '--p'"),
        ("a red car --fast --draft\n", "line 1 has options or a comment of a program, '--fast '"),
        ("a red car -s50 -W512 -C7.5\n", "line 1 has options or a comment of a program, '-s50'"),
        ("---\na red car\n", "line 1 has options or a comment of a program, '---'"),
        ("| # | Prompt |\n|---|---|\n| 1 | a cat |\n", "line 1 has options or a comment of a program"),
        ("**Prompt 1:** a red car\n**Prompt 2:** a dog", "each with a prompt; leave these out"),
        ("Image Prompt 1: a red car\n\nImage Prompt 2: a dog", "each with a prompt; leave these out"),
        ("### Prompt 1\na red car\n### Prompt 2\na dog", "each with a prompt; leave these out"),
        ("[1] a red car\n[2] a dog", "each with a prompt; leave these out"),
        ("1.a red car\n2.a dog", "each with a prompt; leave these out"),
        ("**a red car**\n**a dog**", r"its lines begin with '\*\*'; leave these out"),
        ("● a red car\n● a dog", "its lines begin with '● '; leave these out"),
        ("## Animals\na dog", "line 1 has options or a comment of a program, '## '"),
        ("a red car <lora:add_detail:0.8>", "line 1 has options or a comment of a program, '<lora:"),
        ("a red car -s 20 -W 512 -A k_euler", "line 1 has options or a comment of a program, '-s 20 -W'"),
        ("a red car -Ak_lms", "line 1 has options or a comment of a program, '-Ak_lms'"),
        ("a red car --neg blurry", "line 1 has options or a comment of a program, '--neg '"),
        ('"a red car";\n"a dog";', "its lines are in quotes"),
        ("prompts = ['a red car', 'a cat']", "its lines are in quotes"),
        ('"a red car"\n"a dog"\n', "its lines are in quotes"),
        ('a red car\n"a dog, a cat"\n', "its lines are in quotes"),
        ("1.\ta red car\n2.\ta dog\n", "each with a prompt; leave these out"),
        ("Here are three prompts:\n\n1. a red car\n2. a dog\n3. a cat", "each with a prompt; leave these out"),
        ("(1) a red car\n(2) a dog\n\nLet me know!", "each with a prompt; leave these out"),
        ("Prompt 1: a red car\nPrompt 2: a dog", "each with a prompt; leave these out"),
        ("0,a red car\n1,a dog\n", "each with a prompt; leave these out"),
        ("1\\. a red car\n2\\. a dog\n", "each with a prompt; leave these out"),
        ("a red car\tvehicles\na dog\tanimals\n", "it is a table of several columns"),
        ("```\na red car\n```\n", "line 1 has options or a comment of a program, '```'"),
        ("a cat\n<<<<<<< HEAD\na red car\n=======\na dog\n>>>>>>> main", "line 2 has .* '<<<<<<< '"),
        ("- a red car\n- a dog\n", "its lines begin with '- '; leave these out"),
        ("• a red car\n\n• a dog", "its lines begin with '• '; leave these out"),
        ("01. a red car\n02. a dog\n", "each with a prompt; leave these out"),
        ("a red car --seed=3 --tile\n", "line 1 has options or a comment of a program, '--seed=3'"),
        ('[\n"a cat",\n"a dog"\n]', "it is one JSON list"),
        ("    'a red car',\r\n    'a dog',\r\n", "its lines are in quotes with commas after them"),
        ("1) a red car\n\n2) a dog\n", "each with a prompt; leave these out"),
        ("a.jpg,A red car .\nb.jpg,A dog .\n", "each with a prompt; leave these out"),
        ("image,caption\na.jpg,A red car .\n", "its first line names columns of a table"),
        ("1\ta red car\n2\ta dog\n", "each with a prompt; leave these out"),
        ("img-1.png\ta red car\n\nimg-2.png\ta dog", "each with a prompt; leave these out"),
        (
            "--negative_prompt dog --prompt a cat",
            "options or a comment of a program, '--negative_prompt'; write the prompts alone",
        ),
    ],
)
def test_what_other_programs_read_is_no_list_of_prompts(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"list\.txt cannot be read.*{said}"):
        load(str(tmp_path / "list.txt"))


@pytest.mark.parametrize("name", ["list.yaml", "list.YML", "list.toml"])
def test_files_of_settings_are_no_lists_of_prompts(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("animals:\n  - a red car\n  - a cat\n")
    with pytest.raises(ValueError, match=rf"{name} is a file of settings by its name; .* in a \.txt file"):
        load(str(tmp_path / name))


def test_a_list_of_one_line_of_another_form_is_read_at_once(tmp_path: Path) -> None:
    lines = [f"IMG_{i}.jpg\ta red car \r\n" for i in range(60)]
    (tmp_path / "list.txt").write_text("".join((*lines, "animals\r\n")), newline="")
    assert len(load(str(tmp_path / "list.txt"))) == 61
    (tmp_path / "list.txt").write_text("".join((*lines, "IMG 60 (1).jpg\ta dog\r\n")), newline="")
    with pytest.raises(ValueError, match="each with a prompt; leave these out"):
        load(str(tmp_path / "list.txt"))


def test_what_looks_like_options_of_programs_is_read_where_it_is_none(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    for prompt in ("# Scene\nA red car", "Negative: an inverted photo of a cat", "// a cat", "a sign that says --"):
        path.write_text(json.dumps({"prompt": prompt, "parameters": "a --ar 3:2 --v 6", "notes": "x --no y"}))
        assert [found.text for found in load(str(path))] == [prompt]
    path.write_text(json.dumps({"prompt": "a cat --ar 3:2"}))
    with pytest.raises(ValueError, match=r"Line 1 of .* has options of a program in its prompt, '--ar '"):
        load(str(path))
    path = tmp_path / "list.txt"
    for text in (
        "3. floor of a red house",
        "IMG_20.jpg, a man\nIMG_21.jpg, a dog",
        "img,textured wall\na cat",
        "a cat, --",
        "a cat – a dog\nT-34 -s tank\n[a|b] car",
        "1:1 copy of a car\n2:1 photo of a dog\na cat",
        "1. FC scarf\na cat\na dog\n2. ball\na bowl",
        "a quiet street —no people\na Mustang —V8 engine",
        "temp -c 5 icy lake\n**cat** and **dog**",
        "1 cat\n2 cats\n3 cats",
        "1,000 birds\n2,000 birds",
        'a sign that says "1, 2"\n"EBAMA" on a car',
        "a cat\ton a mat\na dog",
    ):
        path.write_text(text)
        assert [found.text for found in load(str(path))] == text.split("\n")


def test_half_a_character_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"prompt": "a cat"}\n{"prompt": "a red car \\ud83d"}\n')
    with pytest.raises(ValueError, match=r"Line 2 of .*list\.jsonl is no prompt"):
        load(str(tmp_path / "list.jsonl"))
    (tmp_path / "list.jsonl").write_text('{"prompt": "a cat", "set": "x\\ud83d"}\n')
    with pytest.raises(ValueError, match=r"Line 1 of .*list\.jsonl is no prompt"):
        load(str(tmp_path / "list.jsonl"))


def test_no_set_of_several_is_called_as_all_of_them(tmp_path: Path) -> None:
    for name in ("all", "animals"):
        (tmp_path / f"{name}.txt").write_text(f"a cat of {name}\n")
    with pytest.raises(ValueError, match="A set is called 'all'"):
        load(str(tmp_path))
    assert [prompt.set for prompt in load(str(tmp_path / "all.txt"))] == ["all"]


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.tsv"])
def test_what_only_looks_like_an_error_is_a_prompt(name: str, tmp_path: Path) -> None:
    for prompt in (
        "a cat; a dog",
        "001: a red car",
        "404: a red car",
        "911: a red Porsche",
        "an error not found on a screen",
    ):
        (tmp_path / name).write_text(f"{prompt}\na cat\n")
        assert [prompt.text for prompt in load(str(tmp_path / name))] == [prompt, "a cat"]
    (tmp_path / "list.jsonl").write_text('{"error": null, "prompt": "a"}\n{"message": "x", "prompt": "b"}\n')
    assert [prompt.text for prompt in load(str(tmp_path / "list.jsonl"))] == ["a", "b"]
    (tmp_path / "list.jsonl").write_text('{"message": "x", "prompt": "b"}\n')
    assert [prompt.text for prompt in load(str(tmp_path / "list.jsonl"))] == ["b"]


def test_nulls_of_tables_are_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    bench = {"class": "bench", "count": 1, "color": None, "position": None}
    row = {
        "prompt": "a bench",
        "tag": "single",
        "include": [bench],
        "set": None,
        "boxes": {"bench": None},
        "groups": None,
    }
    path.write_text(json.dumps(row))
    (prompt,) = load(str(path))
    assert (prompt.set, prompt.groups, prompt.boxes) == ("single", (("bench", ()),), ())


def test_marks_of_other_programs_are_no_prompts(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a red car\n\x1a")
    assert [prompt.text for prompt in load(str(tmp_path / "list.txt"))] == ["a red car"]
    (tmp_path / "list.jsonl").write_text("{“prompt”: “a red car”}\n")
    with pytest.raises(ValueError, match=r"[Ll]ine 1 of .*list\.jsonl"):
        load(str(tmp_path / "list.jsonl"))


@pytest.mark.parametrize("line", ["a prompt, a red car", "a red car,prompt delivery", "prompter", "red prompt"])
def test_prompts_may_hold_the_word(line: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(line)
    assert [prompt.text for prompt in load(str(tmp_path / "list.txt"))] == [line]


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
        *("3", "-2.5", "true", "null", '""', '["a cat"]', '"  "'),
    ],
)
def test_a_line_that_is_no_prompt_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f"a cat\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^Line 2 of .*mine\.jsonl is no prompt( \(.*\))?; expected"):
        load(path)


def test_a_name_that_a_line_has_twice_is_named(tmp_path: Path) -> None:
    for line in ('{"prompt": "a", "prompt": "b"}', '{"prompt": "a", "boxes": {"car": [], "cat": [], "car": []}}'):
        (tmp_path / "mine.jsonl").write_text(f"a cat\n{line}\n")
        with pytest.raises(ValueError, match=r"^Line 2 of .*is no prompt \('(prompt|car)' is there twice\); expected"):
            load(tmp_path / "mine.jsonl")


def test_json_lines_may_be_strings_and_numbers_prompts_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('"a cat"\na dog\n', encoding="utf-8")
    (tmp_path / "mine.txt").write_text('1984\n"a dog"\n', encoding="utf-8")
    assert [prompt.text for prompt in load(tmp_path / "mine.jsonl")] == ["a cat", "a dog"]
    assert [prompt.text for prompt in load(tmp_path / "mine.txt")] == ["1984", '"a dog"']


@pytest.mark.parametrize("line", ["{red} car and a blue bowl", "{ red | blue } car", "{{a cat}}", "  {1-2$$a|b} dog"])
def test_a_prompt_may_begin_with_a_brace(line: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f'{line}\n{{"prompt": "a cat"}}\n')
    assert [prompt.text for prompt in load(tmp_path / "list.txt")] == [line.strip(), "a cat"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\ufeff", "\n\n"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_files_with_byte_order_marks_may_be_joined(tmp_path: Path, suffix: str, end: str) -> None:
    lines = [f'\ufeff{{"prompt": "{text}"}}' if suffix == ".jsonl" else f"\ufeff{text}" for text in ("a cat", "a dog")]
    (tmp_path / f"m{suffix}").write_text("\ufeff" + end.join(lines) + end, encoding="utf-8", newline="")
    assert [prompt.text for prompt in load(tmp_path / f"m{suffix}")] == ["a cat", "a dog"]


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


# --- boxes ---


@pytest.mark.parametrize(("name", "count"), [("boxed", 20), ("boxed-tuning:7", 7)])
def test_every_object_has_a_box_of_whole_cells_and_none_overlap(name: str, count: int) -> None:
    prompts = load(name)
    assert [prompt.set for prompt in prompts] == [part for part in load_ane() for _ in range(count)]
    assert load(name) == prompts
    places = set()
    for prompt in prompts:
        assert [word for word, _ in prompt.boxes] == [noun for noun, _ in ane_objects(prompt.text)]
        taken: set[tuple[int, int]] = set()
        for _, box in prompt.boxes:
            rows, columns = box.cells(16, 16)
            assert Box(columns.start / 16, rows.start / 16, columns.stop / 16, rows.stop / 16) == box
            assert {len(rows), len(columns)} <= {6, 7, 8}
            cells = set(itertools.product(rows, columns))
            assert not cells & taken
            taken |= cells
            places.add((rows.start, columns.start))
    assert len(places) > count


def test_options_for_boxes_are_chosen_on_other_prompts_than_those_reported() -> None:
    reported, chosen_on = load("boxed"), load("boxed-tuning:20")
    ane = {prompt.text for prompt in load("ane")}
    assert {prompt.text for prompt in reported} <= ane
    assert not {prompt.text for prompt in chosen_on} & ane


@pytest.mark.parametrize(
    "boxes", [{"cat": [0, 0.2, 0.5, 0.8], "red car": [0.5, 0, 1, 1]}, {"car": (0, 0, 1, 1)}, {}, None]
)
def test_boxes_from_a_file(boxes: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "a cat and a red car", "boxes": boxes}) + "\na frog\n")
    expected = tuple((word, Box(*sides)) for word, sides in (boxes or {}).items())
    assert [prompt.boxes for prompt in load(path)] == [expected, ()]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ('{"cat": [0, 0.2, 0.5]}', "needs four numbers"),
        ('{"cat": [0, 0.2, 0.5, 1.2]}', "does not lie in the picture"),
        ('{"cat": [0.5, 0.2, 0.4, 0.8]}', "does not lie in the picture"),
        ('{"cat": [0, 0.2, 0.01, 0.8]}', "too small"),
        ('{"cat": ["a", 0, 1, 1]}', "four finite numbers"),
        ('{"cat": [0, 0, 1, ' + "9" * 400 + "]}", "four finite numbers"),
        ("[[0, 0, 1, 1]]", "need words"),
        ('"cat"', "need words"),
    ],
)
def test_boxes_that_are_none_are_named_with_their_line(boxes: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(f'{{"prompt": "a dog"}}\n{{"prompt": "a cat", "boxes": {boxes}}}\n')
    with pytest.raises(ValueError, match=rf"^Line 2 of .*list\.jsonl is no prompt: .*{message}"):
        load(tmp_path / "list.jsonl")


def test_a_prompt_with_other_boxes_is_not_dropped_silently(tmp_path: Path) -> None:
    line = '{"prompt": "a cat", "boxes": {"cat": [0, 0, %s, 1]}}\n'
    path = tmp_path / "list.jsonl"
    path.write_text(line % 1 + line % 1)
    assert len(load(path)) == 1
    for other in (line % 0.5, '{"prompt": "a cat"}\n'):
        path.write_text(line % 1 + other)
        with pytest.raises(ValueError, match="'a cat' occurs twice with different boxes"):
            load(path)


# --- lists that others publish ---


def test_lines_of_geneval(tmp_path: Path) -> None:
    """Its evaluation_metadata.jsonl: objects and colours are words of the prompt, or else the parser's."""
    entries = [
        ("single_object", [("bench", 1, None)], "a photo of a bench", (("bench", ()),)),
        ("two_object", [("fork", 1, None), ("computer mouse", 1, None)], "a photo of a fork and a computer mouse", 0),
        ("counting", [("clock", 2, None)], "a photo of two clocks", None),
        ("colors", [("fire hydrant", 1, "blue")], "a photo of a blue fire hydrant", (("fire hydrant", ("blue",)),)),
        ("position", [("teddy bear", 1, None), ("dog", 1, None)], "a photo of a dog right of a teddy bear", 0),
        ("color_attr", [("cup", 1, "red"), ("tv", 1, "pink")], "a photo of a red cup and a pink tv", 0),
    ]
    lines, expected = [], []
    for tag, objects, text, groups in entries:
        include: list[dict[str, Any]] = [
            {"class": noun, "count": count} | ({"color": colour} if colour else {}) for noun, count, colour in objects
        ]
        if tag == "position":
            include[1]["position"] = ["right of", 0]
        lines.append(json.dumps({"tag": tag, "include": include, "prompt": text}))
        named = tuple((noun, (colour,) if colour else ()) for noun, _, colour in objects)
        expected.append(BenchmarkPrompt(tag, text, named if groups == 0 else groups))
    lines[2] = lines[2].replace('"prompt"', '"exclude": [{"class": "clock", "count": 3}], "prompt"')
    (tmp_path / "evaluation_metadata.jsonl").write_text("\n".join(lines))
    assert load(tmp_path / "evaluation_metadata.jsonl") == expected


@pytest.mark.parametrize(
    "include", ["3", '["cat"]', '[{"count": 1}]', '[{"class": 3}]', '[{"class": "cat", "color": 1}]']
)
def test_damaged_lines_of_geneval_are_named(include: str, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(f'{{"tag": "colors", "prompt": "a cat", "include": {include}}}\n')
    with pytest.raises(ValueError, match=r"^Line 1 of .*list\.jsonl is no prompt; expected"):
        load(tmp_path / "list.jsonl")


def test_a_folder_of_prompts_is_one_set(tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i}.txt").write_text(f"a red car and {i} dogs\n")
    found = load(str(folder))
    assert len(found) == 30
    assert {prompt.set for prompt in found} == {"prompts"}
    (folder / "0.txt").write_text("a red car\na dog\n")
    assert len({prompt.set for prompt in load(str(folder))}) == 30


def test_a_folder_of_lists_is_a_set_each(tmp_path: Path) -> None:
    """T2I-CompBench's examples/dataset has NAME.txt, NAME_train.txt and parts of NAME_val.txt beside the latter."""
    files = {
        "color_val": "a green bench and a blue bowl\nA bathroom with white tile and a beige toilet.\n",
        "3d_spatial_val": "a dog in front of a car",
        "complex_val": "The red hat was on top of the brown coat rack.\na green bench and a blue bowl\n",
        "color": "not this one",
        "color_train": "nor this",
        "color_val_seen": "nor that",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.txt").write_text(text)
    for name in ("._color_val.txt", "._color.txt"):
        (tmp_path / name).write_bytes(b"\x00\xff")  # of macOS
    assert [(prompt.set, prompt.text) for prompt in load(tmp_path)] == [
        ("3d_spatial", "a dog in front of a car"),
        ("color", "a green bench and a blue bowl"),
        ("color", "A bathroom with white tile and a beige toilet."),
        ("complex", "The red hat was on top of the brown coat rack."),
    ]
    for name in ("color_val", "3d_spatial_val", "complex_val"):
        (tmp_path / f"{name}.txt").unlink()
    assert [prompt.set for prompt in load(tmp_path)] == ["color", "color_train", "color_val_seen"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no lists of prompts"):
        load(tmp_path / "empty")


@pytest.mark.parametrize("count", [1, 26])
def test_look_alikes_are_of_one_family(count: int) -> None:
    prompts = load(f"similar:{count}")
    assert [prompt.set for prompt in prompts] == [
        name for name in ("animals", "objects", "three") for _ in range(count)
    ]
    assert len({prompt.text for prompt in prompts}) == 3 * count
    families = similar.ANIMALS + similar.OBJECTS
    assert {noun for family in families for noun in family} <= {*ANIMALS, *OBJECTS}
    for prompt in prompts:
        phrases = [phrase.split()[1:] for phrase in prompt.text.split(" and ")]
        nouns, colours = [words[-1] for words in phrases], {tuple(words[:-1]) for words in phrases}
        assert any(set(nouns) <= set(family) for family in families)
        assert len(set(nouns)) == len(nouns) == (3 if prompt.set == "three" else 2)
        assert len(colours) == 1
        assert all(bool(words) == (prompt.set == "objects") for words in colours)
    with pytest.raises(ValueError, match=r"similar:27 asks for more .* at most 26"):
        load("similar:27")
