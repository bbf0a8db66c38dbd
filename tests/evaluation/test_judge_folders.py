"""Folders of CLIP and BLIP: those of either version of transformers score alike, and what lacks a part is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ebama.evaluation.benchmarks import BenchmarkPrompt
from ebama.evaluation.judges import folder as folders
from ebama.evaluation.judges.scorer import JudgeScorer
from ebama.evaluation.judges.transformers_names import BertTokenizer, BlipImageProcessorPil, CLIPImageProcessorPil
from ebama.evaluation.judges.vision_language import Captioner, Clip, captioner_folder, clip_folder
from ebama.weights.loading import MINIATURE_FOLDER
from ebama.weights.tokenizer import clip_tokenizer_class

KINDS = {"clip": folders.CLIP, "captioner": folders.BLIP}
OPENERS: dict[str, Callable[[Path], Any]] = {"clip": Clip.open, "captioner": Captioner.open}
CHECKS: dict[str, Callable[[Path], Path]] = {"clip": clip_folder, "captioner": captioner_folder}
PARTS = tuple(KINDS)


@pytest.fixture
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The embedded model of the test's `part` in a folder of its own."""
    return Path(shutil.copytree(MINIATURE_FOLDER / request.node.callspec.params["part"], tmp_path / "judge"))


def _as_version_4(folder: Path) -> None:
    """The files that transformers 4 saves: a vocabulary instead of tokenizer.json."""
    stored = json.loads((folder / "tokenizer.json").read_text())
    model = stored["model"]
    vocabulary = model["vocab"] | {token["content"]: token["id"] for token in stored["added_tokens"]}
    if "merges" in model:
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    else:
        (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")
    (folder / "tokenizer.json").unlink()
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    special = {name: token for name, token in settings.items() if name.endswith("_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    added = {
        name: {"__type": "AddedToken", "content": token, "lstrip": False, "normalized": True, "rstrip": False,
               "single_word": False}
        for name, token in special.items()
    }  # fmt: skip
    settings.pop("backend")
    config.write_text(json.dumps(settings | added | {"clean_up_tokenization_spaces": True}))


def _as_version_5(folder: Path) -> None:
    """The files that transformers 5 saves: the pictures' settings within those of the whole processor."""
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings, "processor_class": "X"}))
    (folder / "preprocessor_config.json").unlink()


def _with_both(folder: Path) -> None:
    """Late versions 4 save settings of the processor beside the pictures' own."""
    (folder / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("version", [_as_version_4, _as_version_5, _with_both])
def test_folders_of_both_versions_of_transformers_score_alike(
    part: str, version: Callable[[Path], None], copy: Path
) -> None:
    version(copy)
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 40, 70, 3), dtype=torch.uint8, generator=rng)
    images = [Image.fromarray(image.numpy()) for image in pixels]
    ours, original = OPENERS[part](copy), OPENERS[part](MINIATURE_FOLDER / part)
    if isinstance(ours, Captioner):
        assert ours.captions(images) == original.captions(images)
    else:
        texts = ["a red car and a cat", "a bear", "A  Purple crown!"]
        assert torch.equal(ours.images(images), original.images(images))
        assert torch.equal(ours.texts(texts), original.texts(texts))


@pytest.mark.parametrize("part", PARTS)
def test_the_settings_that_transformers_reads_win(part: str, copy: Path) -> None:
    """transformers 5 saves settings of its own beside those of a folder that version 4 made."""
    kind = folders.CLIP if part == "clip" else folders.BLIP
    older = folders.image_settings(copy, kind)
    newer = {**older, "image_mean": [0.1, 0.2, 0.3]}
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": newer}))
    assert folders.image_settings(copy, kind) == newer
    (copy / "preprocessor_config.json").write_text("{}")
    assert folders.image_settings(copy, kind) == newer


@pytest.mark.parametrize(
    ("name", "value"), [("num_attention_heads", -4), ("layer_norm_eps", -1.0), ("projection_dim", -1)]
)
def test_numbers_below_zero_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"c\.json: {name} is {value}; expected a number of at least 0"):
        folders.check_settings(Path("c.json"), {"text_config": {name: value}})


def test_a_folder_of_the_hub_is_told_where_the_model_is(tmp_path: Path) -> None:
    inside = tmp_path / "snapshots" / "0123"
    inside.mkdir(parents=True)
    (inside / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=rf"holds no config\.json: .* Give {inside}\."):
        folders.check(tmp_path, folders.CLIP)
    with pytest.raises(ValueError, match=rf"holds no config\.json: .* Give {inside}\."):
        folders.check(inside / "config.json", folders.CLIP)


@pytest.mark.parametrize("other", ["BlipForQuestionAnswering", "BlipForImageTextRetrieval"])
def test_another_model_of_the_family_is_named(other: str, tmp_path: Path) -> None:
    config = json.loads((MINIATURE_FOLDER / "captioner" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": [other]}))
    with pytest.raises(ValueError, match=rf"holds a {other}; expected a BlipForConditionalGeneration\.$"):
        folders.check(tmp_path, folders.BLIP)


@pytest.mark.slow
def test_a_folder_that_transformers_itself_saves_opens(tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    CLIPModel.from_pretrained(MINIATURE_FOLDER / "clip").save_pretrained(tmp_path)
    CLIPProcessor.from_pretrained(MINIATURE_FOLDER / "clip").save_pretrained(tmp_path)
    vectors = [Clip.open(folder).texts(["a red car"]) for folder in (tmp_path, MINIATURE_FOLDER / "clip")]
    assert vectors[0] is not None
    assert vectors[1] is not None
    assert torch.equal(*vectors)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["model.fp16.safetensors", "pytorch_model.bf16.bin"])
def test_a_variant_of_the_weights_alone_opens(part: str, name: str, copy: Path) -> None:
    weights = {key: value.half().float() for key, value in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    full = OPENERS[part](copy)
    (copy / "model.safetensors").unlink()
    if name.endswith("bin"):
        torch.save(weights, copy / name)
    else:
        save_file({key: value.half() for key, value in weights.items()}, copy / name, {"format": "pt"})
    opened = CHECKS[part](copy) and OPENERS[part](copy)
    for key, weight in full._model.state_dict().items():
        assert torch.equal(opened._model.state_dict()[key], weight), key
    (copy / "model.ema.safetensors").write_bytes(b"")
    assert "holds several variants of its weights, " in _refusal(part, copy)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["captioner"])
@pytest.mark.parametrize("name", ["sep_token_id", "pad_token_id"])
def test_captions_end_where_the_tokenizer_says(part: str, name: str, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"][name] = 17
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"whose {name} is \d+; its model's text_config says 17\."):
        OPENERS[part](copy)


# --- what is missing ---


def _refusal(part: str, folder: Path) -> str:
    """The one line with which a folder is refused before its weights are read."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the tests say what it holds)
        CHECKS[part](folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    with pytest.raises(ValueError, match=r".") as caught:
        OPENERS[part](folder)
    assert str(caught.value) == message
    return message


@pytest.mark.parametrize(
    ("part", "gone", "named"),
    [
        ("clip", ["tokenizer.json"], "holds no tokenizer: it lacks vocab.json and merges.txt"),
        ("clip", ["tokenizer.json", "tokenizer_config.json"], "holds no tokenizer: it lacks vocab.json and merges.txt"),
        ("captioner", ["tokenizer.json"], "holds no tokenizer: it lacks vocab.txt"),
        ("captioner", ["tokenizer.json", "tokenizer_config.json"], "holds no tokenizer: it lacks vocab.txt"),
        ("clip", ["preprocessor_config.json"], "holds no preprocessor_config.json"),
        ("captioner", ["preprocessor_config.json"], "holds no preprocessor_config.json"),
        ("clip", ["model.safetensors"], "holds no weights: expected model.safetensors"),
        ("captioner", ["config.json"], "holds no config.json: expected the folder of a BLIP model"),
    ],
)
def test_a_missing_file_is_named(part: str, gone: list[str], named: str, copy: Path) -> None:
    for name in gone:
        (copy / name).unlink()
    assert named in _refusal(part, copy)


@pytest.mark.parametrize("part", ["clip"])
@pytest.mark.parametrize(("left", "lacks"), [("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")])
def test_half_a_tokenizer_is_none(part: str, left: str, lacks: str, copy: Path) -> None:
    _as_version_4(copy)
    (copy / lacks).unlink()
    assert f"it lacks {lacks}; expected tokenizer.json, or vocab.json and merges.txt" in _refusal(part, copy)
    assert (copy / left).is_file()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "name",
    ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors", "added_tokens.json"],
)
def test_pipes_and_dangling_links_are_not_opened(part: str, name: str, copy: Path) -> None:
    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name)
    assert f"{name} is a device or a pipe" in _refusal(part, copy)
    (copy / name).unlink()
    (copy / name).symlink_to("../blobs/0123")
    if name not in ("config.json", "added_tokens.json"):
        assert f"{name} is a link to ../blobs/0123, which is not there" in _refusal(part, copy)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("tower", "key", "value"),
    [("text", "num_hidden_layers", 10**9), ("vision", "hidden_size", 10**12), ("vision", "patch_size", 10**8)],
)
def test_a_network_that_would_never_be_built_is_refused(
    part: str, tower: str, key: str, value: int, copy: Path
) -> None:
    config = json.loads((copy / "config.json").read_text())
    config[f"{tower}_config"][key] = value
    (copy / "config.json").write_text(json.dumps(config))
    assert f"config.json: {key} is {value:,}; expected at most" in _refusal(part, copy)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("tower", "key"), [("vision", "intermediate_size"), ("text", "max_position_embeddings")])
def test_a_network_larger_than_its_weights_is_refused(part: str, tower: str, key: str, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config[f"{tower}_config"][key] = 10**6
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json describes [\d,]+ weights; its files hold [\d,]+ bytes\."):
        OPENERS[part](copy)


# --- settings of pictures ---

INCOMPLETE: dict[str, list[str]] = {
    "clip": ["size", "resample", "crop_size", "image_mean", "image_std"],
    "captioner": ["size", "resample", "image_mean", "image_std"],
}


@pytest.mark.parametrize("layout", ["version 4", "version 5"])
@pytest.mark.parametrize("part", PARTS)
def test_incomplete_settings_are_refused_by_what_they_lack(part: str, layout: str, copy: Path) -> None:
    whole = json.loads((copy / "preprocessor_config.json").read_text())
    name = "preprocessor_config.json" if layout == "version 4" else "processor_config.json"
    (copy / "preprocessor_config.json").unlink()

    def write(settings: object) -> str:
        (copy / name).write_text(json.dumps(settings if layout == "version 4" else {"image_processor": settings}))
        with pytest.raises(ValueError, match=rf"{name}") as caught:
            CHECKS[part](copy)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert f"lacks {', '.join(INCOMPLETE[part])};" in write({})
    for key in INCOMPLETE[part]:
        assert f"lacks {key};" in write({k: v for k, v in whole.items() if k != key})
        assert f"lacks {key};" in write({**whole, key: None})
    for wrong in ({"image_std": [0.5, 0, 0.5]}, {"image_mean": [0.5]}, {"size": {}}, {"size": "64"}, {"resample": 9}):
        assert next(iter(wrong)) in write({**whole, **wrong})


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"image_processor": 3}', "[" * 100_000])
@pytest.mark.parametrize("part", PARTS)
def test_damaged_settings_are_refused(part: str, content: str, copy: Path) -> None:
    (copy / "preprocessor_config.json").write_text(content)
    assert "preprocessor_config.json" in _refusal(part, copy)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("clip", {"do_center_crop": False, "crop_size": None, "size": {"height": 64, "width": 64}}),
        ("clip", {"do_normalize": False, "image_mean": None, "image_std": None}),
        ("clip", {"size": 64, "crop_size": 64}),
        ("captioner", {"do_rescale": True, "unknown": [1]}),
    ],
)
def test_settings_that_need_less_are_complete(part: str, change: dict[str, Any], copy: Path) -> None:
    file = copy / "preprocessor_config.json"
    settings = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    processor = CLIPImageProcessorPil if part == "clip" else BlipImageProcessorPil
    CHECKS[part](copy)
    folders.read_processor(copy, KINDS[part], processor, 64)


@pytest.mark.parametrize("part", PARTS)
def test_settings_that_are_null_are_the_usual_ones(part: str, copy: Path) -> None:
    file = copy / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    switches = ["do_resize", "do_rescale", "do_normalize", *(["do_center_crop"] if part == "clip" else [])]
    file.write_text(json.dumps(settings | dict.fromkeys([*switches, "rescale_factor", "unknown"])))
    CHECKS[part](copy)
    processor = CLIPImageProcessorPil if part == "clip" else BlipImageProcessorPil
    image = Image.effect_noise((90, 80), 50).convert("RGB")
    read = folders.read_processor(copy, KINDS[part], processor, 64)
    plain = processor.from_dict(settings)
    assert (read([image])["pixel_values"][0] == plain([image])["pixel_values"][0]).all()
    for name in switches:
        for value in ("no", 1, []):
            file.write_text(json.dumps(settings | {name: value}))
            assert f"{name} is {value!r}; expected true or false" in _refusal(part, copy)


@pytest.mark.parametrize("part", PARTS)
def test_pictures_of_another_size_than_the_models_are_refused(part: str, copy: Path) -> None:
    file = copy / "preprocessor_config.json"
    side = {"height": 32, "width": 32}
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": side, "crop_size": side}))
    with pytest.raises(ValueError, match=r"prepares pictures of 32x32 pixels; its model takes 64x64\."):
        OPENERS[part](copy)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "change",
    [
        {"rescale_factor": 0},
        {"rescale_factor": math.nan},
        {"rescale_factor": "x"},
        {"image_std": [1, 1, -1]},
        {"image_std": [1e-300] * 3},
        {"image_mean": [1e300] * 3},
        {"image_mean": [0, 0, 10**400]},
    ],
    ids=str,
)
def test_settings_that_leave_no_picture_are_refused(part: str, change: dict[str, Any], copy: Path) -> None:
    file = copy / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=r"no picture can be prepared|NaN or infinite") as caught:
        OPENERS[part](copy)
    assert "\n" not in str(caught.value)


# --- weights that are not the model's ---


def _with_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_no_numbers_are_refused(part: str, copy: Path) -> None:
    name = next(name for name in load_file(copy / "model.safetensors") if name.endswith("fc1.bias"))
    _with_weights(copy, lambda weights: weights[name][-1:].fill_(math.inf))
    with pytest.raises(ValueError, match=r"NaN or infinite, e\.g\. .*fc1\.bias; download it again"):
        OPENERS[part](copy)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_weights_in_whole_numbers_are_refused(part: str, dtype: torch.dtype, copy: Path) -> None:
    name = next(name for name in load_file(copy / "model.safetensors") if name.endswith("fc1.weight"))
    _with_weights(copy, lambda weights: weights.update({name: weights[name].to(dtype)}))
    with pytest.raises(ValueError, match=rf"fc1\.weight of {dtype}; expected floating point"):
        OPENERS[part](copy)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("tower", ["text_config", "vision_config"])
def test_layers_beyond_the_models_are_refused(part: str, tower: str, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config[tower]["num_hidden_layers"] -= 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"holds more layers than its config\.json describes, e\.g\. .*layers?\.\d"):
        OPENERS[part](copy)


@pytest.mark.parametrize("part", PARTS)
def test_a_pickle_that_runs_code_is_named_without_advice_to_run_it(part: str, copy: Path) -> None:
    torch.save({"a": torch.ones(1), "b": subprocess.call}, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"not safe to open: its pickle asks for \w+\.call") as caught:
        OPENERS[part](copy)
    assert "weights_only" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_what_a_model_returns_is_not_the_folders_choice(part: str, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    for values in (config, config["text_config"], config["vision_config"]):
        values |= {"return_dict": False, "output_hidden_states": True, "output_attentions": True}
    (copy / "config.json").write_text(json.dumps(config))
    pictures = [Image.new("RGB", (64, 64), "red")]
    plain, changed = OPENERS[part]("miniature"), OPENERS[part](copy)
    if part == "clip":
        assert torch.equal(changed.images(pictures), plain.images(pictures))
        assert torch.equal(changed.texts(["a red car"]), plain.texts(["a red car"]))
    else:
        assert changed.captions(pictures) == plain.captions(pictures)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["clip"])
def test_texts_stand_at_the_left_whatever_the_folder_says(part: str, copy: Path) -> None:
    config = json.loads((copy / "tokenizer_config.json").read_text())
    sides = {"padding_side": "left", "truncation_side": "left"}
    (copy / "tokenizer_config.json").write_text(json.dumps(config | sides))
    changed, plain = Clip.open(copy), Clip.open("miniature")
    texts = ["a red car", "a blue bowl and a yellow cat", "a red car " * 60 + "a cat"]
    assert torch.equal(changed.texts(texts, cut=True), plain.texts(texts, cut=True))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["clip"])
@pytest.mark.parametrize("pad", ["!", None])
def test_what_fills_texts_changes_none(part: str, pad: str | None, copy: Path) -> None:
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": pad}))
    texts = ["a red car!", "!", "wow!!! a cat ! and a bowl"]
    changed, plain = Clip.open(copy).texts(texts), Clip.open("miniature").texts(texts)
    assert changed is not None
    assert plain is not None
    torch.testing.assert_close(changed, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("tower", ["text_config", "vision_config"])
def test_a_null_in_the_place_of_a_number_is_named(part: str, tower: str, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    for name in ("layer_norm_eps", "num_hidden_layers", "bos_token_id" if tower == "text_config" else "patch_size"):
        (copy / "config.json").write_text(json.dumps(config | {tower: config[tower] | {name: None}}))
        with pytest.raises(ValueError, match=rf"could not be read by transformers: .*\b{name}\b") as caught:
            OPENERS[part](copy)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["captioner"])
def test_captions_begin_with_a_token_of_their_own(part: str, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    for name in ("sep_token_id", "pad_token_id"):
        config["text_config"]["bos_token_id"] = config["text_config"][name]
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"bos_token_id is \d+, which ends or fills captions"):
            OPENERS[part](copy)


# --- tokenizers that are not the model's ---


def _tokenizer(part: str, folder: Path) -> Any:
    vocabulary = 791 if part == "clip" else 49
    kind = clip_tokenizer_class() if part == "clip" else BertTokenizer
    return folders.read_tokenizer(folder, KINDS[part], kind, vocabulary)


def _rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    stored = json.loads((folder / "tokenizer.json").read_text())
    change(stored)
    (folder / "tokenizer.json").write_text(json.dumps(stored))


def _cut(tokens: int) -> Callable[[dict[str, Any]], object]:
    def cut(stored: dict[str, Any]) -> None:
        model = stored["model"]
        model["vocab"] = {token: i for token, i in model["vocab"].items() if i < tokens}
        model["merges"] = model.get("merges", [])[: max(tokens - 512, 0)]
        stored["added_tokens"] = [token for token in stored["added_tokens"] if token["id"] < tokens]

    return cut


@pytest.mark.parametrize(("part", "tokens"), [("clip", 600), ("clip", 780), ("captioner", 20), ("captioner", 40)])
def test_a_tokenizer_too_small_for_its_model_is_refused(part: str, tokens: int, copy: Path) -> None:
    _rewrite(copy, _cut(tokens))
    vocabulary = 791 if part == "clip" else 49
    with pytest.raises(ValueError, match=rf"could not be read|vocabulary of {vocabulary}\.") as caught:
        _tokenizer(part, copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", PARTS)
def test_a_tokenizer_too_large_for_its_model_is_refused(part: str, copy: Path) -> None:
    kind = clip_tokenizer_class() if part == "clip" else BertTokenizer
    assert len(_tokenizer(part, copy)) in (791, 49)
    with pytest.raises(ValueError, match=r"the last with id \d+; its model has a vocabulary of 40\."):
        folders.read_tokenizer(copy, KINDS[part], kind, 40)


@pytest.mark.parametrize("settings", [{"quant_method": "mxfp4"}, {"quant_method": "eetq"}])
@pytest.mark.parametrize("part", [None, "vision_config"])
def test_quantised_layers_of_others_are_not_fetched(settings: dict[str, str], part: str | None, tmp_path: Path) -> None:
    folder = shutil.copytree(MINIATURE_FOLDER / "clip", tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    (config if part is None else config[part])["quantization_config"] = settings
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"config\.json: quantization_config is of a quantised model; save it in float"
    ):
        Clip.open(folder)


def test_other_weights_than_those_that_were_checked_are_not_read(tmp_path: Path) -> None:
    folder = shutil.copytree(MINIATURE_FOLDER / "clip", tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "other.safetensors"}))
    with pytest.raises(ValueError, match="transformers_weights names other weights than those here"):
        Clip.open(folder)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("content", ["", "{}", "{", "[]"])
def test_an_empty_tokenizer_is_refused(part: str, content: str, copy: Path) -> None:
    (copy / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"could not be read|vocabulary of|own words") as caught:
        OPENERS[part](copy)
    assert str(caught.value).startswith(str(copy))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["clip"])
def test_a_tokenizer_that_does_not_work_is_refused(part: str, copy: Path) -> None:
    (copy / "tokenizer_config.json").write_text('{"model_max_length": [1]}')
    with pytest.raises(ValueError, match=r"could not be read|a tokenizer that does not work: "):
        _tokenizer(part, copy)


@pytest.mark.parametrize("part", ["clip"])
def test_a_tokenizer_without_its_merges_is_refused(part: str, copy: Path) -> None:
    _rewrite(copy, lambda stored: stored["model"].update(merges=[]))
    with pytest.raises(ValueError, match=r"does not know its own words \('\w+' becomes \d+ tokens\)"):
        _tokenizer(part, copy)
    _as_version_4(copy)
    assert (copy / "merges.txt").read_text() == "#version: 0.2\n"
    with pytest.raises(ValueError, match=r"does not know its own words"):
        _tokenizer(part, copy)


@pytest.mark.slow
def test_clips_own_tokenizer_knows_its_own_words(tmp_path: Path) -> None:
    from ebama.weights import clip_tokenizer

    clip_tokenizer().save_pretrained(tmp_path)
    assert len(folders.read_tokenizer(tmp_path, folders.CLIP, clip_tokenizer_class(), 49408)) == 49408


@pytest.mark.slow
@pytest.mark.parametrize("part", ["clip"])
def test_texts_end_where_the_model_reads_them(part: str, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2  # in old folders: the largest id
    (copy / "config.json").write_text(json.dumps(config))
    OPENERS[part](copy)
    config["text_config"]["eos_token_id"] = 700
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"whose texts end in id 790; its model reads them at id 700"):
        OPENERS[part](copy)


@pytest.mark.parametrize("part", ["clip"])
def test_weights_that_are_missing_are_named(part: str, copy: Path) -> None:
    assert "logit_scale" in load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"could not be read by transformers") as caught:
        OPENERS[part](copy)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_judges_read_the_same_under_another_default_dtype() -> None:
    images = [Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 9 + i).convert("RGB") for i in range(2)]
    prompts = [BenchmarkPrompt("a", "a red car and a cat")] * 2

    def scores() -> list[Any]:
        clip = Clip.open("miniature")
        return [JudgeScorer()(images, prompts), clip.images(images).tolist(), clip.texts(["a red car"])]

    expected, before = scores(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        again = scores()
    finally:
        torch.set_default_dtype(before)
    assert again[:2] == expected[:2]
    assert torch.equal(again[2], expected[2])


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["_attn_implementation", "attn_implementation"])
def test_no_code_that_a_folder_names_is_fetched(part: str, name: str, copy: Path) -> None:
    """transformers would ask the hub for the repository, and import what it holds."""
    settings = json.loads((copy / "config.json").read_text())
    for value in ("evil/repo@main", "kernels-community/flash-attn2", "flash_attention_2"):
        for changed in (
            {**settings, name: value},
            settings | {"text_config": {**settings["text_config"], name: value}},
        ):
            (copy / "config.json").write_text(json.dumps(changed))
            assert f"{name} is '{value}'; expected eager or sdpa" in _refusal(part, copy)
    (copy / "config.json").write_text(json.dumps({**settings, name: "eager"}))
    CHECKS[part](copy)


@pytest.mark.parametrize("part", PARTS)
def test_an_adapter_beside_a_judge_is_named(part: str, copy: Path) -> None:
    (copy / "adapter_config.json").write_text("{}")
    assert "holds an adapter beside the model; merge it" in _refusal(part, copy)
