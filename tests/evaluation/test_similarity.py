"""Full, Min and T-C similarity: equal to a plain computation of the published metrics, and sound on odd input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BlipForConditionalGeneration, CLIPModel

from ebama.cli import main
from ebama.evaluation import benchmarks
from ebama.evaluation.benchmarks import BenchmarkPrompt
from ebama.evaluation.judges import templates
from ebama.evaluation.judges.similarity import ImageTextSimilarity, TextCaptionSimilarity, similarities
from ebama.evaluation.judges.vision_language import Captioner, Clip
from ebama.evaluation.scoring import score
from ebama.weights.loading import MINIATURE_FOLDER
from ebama.weights.miniature import world

SHIPPED = {part: MINIATURE_FOLDER / part for part in ("clip", "captioner")}
PROMPTS = ("a cat and a red car", "a bear with a crown")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A CLIP and a BLIP of random weights, with the embedded ones' tokenizers."""
    made = {}
    for part, kind in (("clip", CLIPModel), ("captioner", BlipForConditionalGeneration)):
        made[part] = tmp_path_factory.mktemp("random") / part
        shutil.copytree(SHIPPED[part], made[part])
        torch.manual_seed(3)
        model = kind(kind.config_class.from_pretrained(made[part]))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.2)
        model.save_pretrained(made[part])
    return made


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(count)]


# --- the texts ---


def test_templates_are_edited_as_published_and_correctly() -> None:
    assert len(templates.TEMPLATES) == len(set(templates.TEMPLATES)) == 80
    plain = [template.format("a cat") for template in templates.TEMPLATES]
    edited = templates.published("a cat")
    assert sum(a != b for a, b in zip(plain, edited, strict=True)) == 48
    assert "a bad photo of a cat." in edited
    assert "a plastic a cat." in edited  # as published
    assert "a photo of a zebrand a cat." in templates.published("a zebra and a cat")
    assert "a photo of a zebra and a cat." in templates.corrected("a zebra and a cat")
    assert "a photo of apple." in templates.published("a apple")
    assert "a photo of a apple." in templates.corrected("a apple")
    assert "a photo of an owl." in templates.published("an owl")
    assert "a photo of the owl." in templates.corrected("the owl")
    assert templates.corrected("cats")[0] == "a bad photo of a cats."


@pytest.mark.slow
def test_published_and_corrected_texts_agree_on_the_benchmark() -> None:
    assert not any(templates.differ(prompt.text) for prompt in benchmarks.load("ane"))
    dvmp = {prompt.text for prompt in benchmarks.load("dvmp") if templates.differ(prompt.text)}
    assert any("zebra and" in text or "panda and" in text for text in dvmp)
    assert all(templates.differ(text) for text in ("a cat", "a cat and a dog and a frog", "a gorilla and a dog"))


@pytest.mark.parametrize(
    ("prompt", "halves", "parts"),
    [
        ("a cat and a dog", ("a cat", "a dog"), 2),
        ("a cat with a crown", ("a cat", "a crown"), 2),
        ("a cat with a crown and a dog and a frog", ("a cat with a crown", "a dog"), 4),
        ("a hand without a band", None, 1),
    ],
)
def test_prompts_are_cut_at_and_or_with(prompt: str, halves: tuple[str, str] | None, parts: int) -> None:
    assert templates.halves(prompt) == halves
    assert len(templates.parts(prompt)) == parts


# --- equal to a plain computation ---


def plain_vectors(model: CLIPModel, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """One text after the other, no padding, mean of unit vectors; in float64."""
    found = []
    for text in texts:
        hidden = model.text_model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0, -1]
        vector = model.text_projection.weight.double() @ hidden.double()
        found.append(vector / vector.norm())
    mean = torch.stack(found).mean(0)
    return mean / mean.norm()


def plain_picture(image: Image.Image) -> torch.Tensor:
    return torch.tensor(np.asarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.slow
@torch.no_grad()
def test_full_and_min_equal_a_plain_computation(folders: dict[str, Path]) -> None:
    clip = Clip.open(folders["clip"])
    model = CLIPModel.from_pretrained(folders["clip"]).eval()
    images = pictures(len(PROMPTS))
    scores = ImageTextSimilarity(clip)(images, [BenchmarkPrompt("a", text) for text in PROMPTS])
    for image, prompt, found in zip(images, PROMPTS, scores, strict=True):
        hidden = model.vision_model(plain_picture(image)).pooler_output[0].double()
        vector = model.visual_projection.weight.double() @ hidden
        vector /= vector.norm()

        def similarity(text: str, vector: torch.Tensor = vector) -> float:
            texts = [t.format(text).replace("a a", "a").replace("the a", "a") for t in templates.TEMPLATES]
            return float(plain_vectors(model, clip._tokenizer, texts) @ vector)

        first, second = prompt.split(" and " if " and " in prompt else " with ")
        assert found == {
            "full": pytest.approx(similarity(prompt), abs=1e-5),
            "min": pytest.approx(min(similarity(first), similarity(second)), abs=1e-5),
        }


@torch.no_grad()
def plain_caption(model: BlipForConditionalGeneration, image: Image.Image, prefix: list[int]) -> list[int]:
    """Beam search of 3 by the book: the end only from the 10th token on, the best mean log-probability wins."""
    seen = model.vision_model(plain_picture(image)).last_hidden_state
    beams, ended = [(0.0, prefix)], []
    while len(beams[0][1]) < 30:
        grown = []
        for total, ids in beams:
            logits = model.text_decoder(input_ids=torch.tensor([ids]), encoder_hidden_states=seen).logits[0, -1]
            chances = logits.log_softmax(-1)
            if len(ids) < 10:
                chances[3] = -torch.inf
            grown += [(total + float(chance), [*ids, i]) for i, chance in enumerate(chances)]
        grown.sort(key=lambda each: -each[0])
        # An end counts only if it is among the three best.
        ended += [(total / (len(ids) - len(prefix)), ids) for total, ids in grown[:3] if ids[-1] == 3]
        beams = [each for each in grown if each[1][-1] != 3][:3]
        if len(ended) >= 3:
            break
    ended += [(total / (len(ids) - len(prefix)), ids) for total, ids in beams] if len(ended) < 3 else []
    return max(ended)[1]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["random", "embedded"])
def test_captions_are_decoded_by_beam_search_with_blips_lengths(folders: dict[str, Path], which: str) -> None:
    folder = folders["captioner"] if which == "random" else SHIPPED["captioner"]
    captioner = Captioner.open(folder)
    model = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    words = captioner._tokenizer.convert_ids_to_tokens(list(range(49)))
    for image, caption in zip(pictures(3), captioner.captions(pictures(3)), strict=True):
        ids = plain_caption(model, image, [48, 5, 6, 7])
        assert caption == " ".join(words[i] for i in ids[4:] if i not in (0, 1, 2, 3, 4, 48))
        assert not caption.startswith("a picture of")


@pytest.mark.slow
@torch.no_grad()
def test_t_c_compares_the_bare_caption_with_the_prompt_in_templates(folders: dict[str, Path]) -> None:
    clip, captioner = Clip.open(folders["clip"]), Captioner.open(SHIPPED["captioner"])
    model = CLIPModel.from_pretrained(folders["clip"]).eval()
    images = pictures(len(PROMPTS))
    scores = TextCaptionSimilarity(clip, captioner)(images, [BenchmarkPrompt("a", text) for text in PROMPTS])
    for image, prompt, found in zip(images, PROMPTS, scores, strict=True):
        caption = found["caption"]
        assert caption == captioner.captions([image])[0]
        texts = [t.format(prompt).replace("a a", "a").replace("the a", "a") for t in templates.TEMPLATES]
        vectors = [plain_vectors(model, clip._tokenizer, each) for each in (texts, [str(caption)])]
        assert found["t-c"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)


# --- odd input ---


@pytest.mark.slow
def test_prompts_without_halves_get_only_corrected_scores() -> None:
    listed = ["a red car", "a cat and a dog and a frog"]
    scorers = similarities("miniature", None, listed)
    assert scorers[0].keys == ("full", "min", "full corrected", "min corrected")
    alone, three = scorers[0](pictures(2), [BenchmarkPrompt("a", text) for text in listed])
    assert alone["full"] is alone["min"] is None
    assert alone["full corrected"] == alone["min corrected"]
    assert three["full"] == pytest.approx(three["full corrected"])
    assert isinstance(three["min"], float)
    assert isinstance(three["min corrected"], float)
    assert three["min corrected"] <= three["min"] + 1e-6


@pytest.mark.slow
def test_a_prompt_that_is_too_long_gets_no_published_score() -> None:
    prompt = "a cat and " + "a very long road " * 20
    with pytest.warns(UserWarning, match="is too long for the miniature's image-text judge"):
        (found,) = ImageTextSimilarity(Clip.open("miniature"), corrected=True)(
            pictures(1), [BenchmarkPrompt("a", prompt)]
        )
    assert found["full"] is found["min"] is None
    assert isinstance(found["min corrected"], float)
    assert "min corrected" in similarities("miniature", None, ["a cat and a dog", prompt])[0].keys


@pytest.mark.slow
def test_a_folder_with_a_broken_picture_and_unequal_numbers(tmp_path: Path) -> None:
    for prompt, seeds in (("a cat and a dog", 3), ("a red car and a blue bow", 1)):
        folder = tmp_path / "other" / prompt
        folder.mkdir(parents=True)
        for seed, image in enumerate(pictures(seeds)):
            image.save(folder / f"{seed}.png")
    (folder / "9.png").write_bytes(b"\x89PNG no picture")
    with pytest.warns(UserWarning, match=r"1 of 5 pictures have no scores .*9\.png"):
        lines = score(tmp_path, similarities("miniature", "miniature", ["a cat and a dog"]))
    scored = [line["scores"] for line in lines if "scores" in line]
    assert [sorted(found) for found in scored] == [["caption", "full", "min", "t-c"]] * 4


@pytest.mark.slow
def test_the_command_adds_columns_and_names_the_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sd" / "a cat and a dog"
    folder.mkdir(parents=True)
    pictures(1)[0].save(folder / "0.png")
    command = ["evaluate", "--score-only", str(tmp_path), "--judge", "--clip", "miniature", "--blip", "miniature"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert all(f"**{key}" in shown for key in ("presence", "binding", "full", "min", "t-c"))
    for scorer in similarities("miniature", "miniature", []):
        assert scorer.name.startswith("the miniature's")
        assert "CLIP" not in scorer.name
        assert "BLIP" not in scorer.name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clip", "nowhere"], "nowhere holds no config.json: expected the folder of a CLIP model"),
        (["--blip", "miniature"], "--blip needs --clip too"),
        (["--clip", "miniature", "--blip", "nowhere"], "nowhere holds no config.json: expected the folder of a BLIP"),
        (["--clip", str(SHIPPED["captioner"])], "holds a model of type 'blip'; expected 'clip'"),
    ],
)
def test_a_folder_of_another_model_is_refused_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("opened", [Clip.open, Captioner.open])
def test_what_is_no_folder_here_has_a_remedy(opened: Callable[[str], object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hf download openai/clip-vit-large-patch14 --local-dir DIR"):
        opened("openai/clip-vit-large-patch14")
    (tmp_path / "ViT-B-32.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ViT-B-32\.pt holds no config\.json: expected the folder of a"):
        opened(str(tmp_path / "ViT-B-32.pt"))


def test_leftovers_in_a_judges_pickle_are_named_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(SHIPPED["clip"], folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**tensors, "step": np.float64(3)}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"its pickle holds more than weights; save them alone, as model\.safe"):
        Clip.open(folder)


def test_a_damaged_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(SHIPPED["clip"], folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="could not be read by transformers: ") as found:
        Clip.open(folder)
    assert "\n" not in str(found.value)
    tensors = load_file(SHIPPED["clip"] / "model.safetensors")
    for around in ("module.", "_orig_mod.", "model."):
        wrapped = {f"{around}{key}": tensor for key, tensor in tensors.items()}
        save_file(wrapped, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=rf"e\.g\. (\S+); it has {around}\1: save the model without"):
            Clip.open(folder)
    del tensors["logit_scale"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of the model's tensors, e\.g\. logit_scale\.$"):
        Clip.open(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"holds no preprocessor_config\.json"):
        Clip.open(folder)


# --- the embedded judges ---


@pytest.mark.slow
def test_embedded_judges_know_every_word_of_the_world() -> None:
    clip, captioner = Clip.open("miniature"), Captioner.open("miniature")
    for word in world.WORDS:
        assert captioner._tokenizer.unk_token_id not in captioner._tokenizer(word)["input_ids"]
        assert clip._tokenizer.decode(clip._tokenizer(word)["input_ids"][1:-1]).strip() == word


@pytest.mark.slow
def test_embedded_judges_read_drawn_scenes() -> None:
    scenes = pytest.importorskip("ebama.training.drawing.scenes", reason="drawing needs the extra `train`")
    from ebama.training import readers

    composer, rng = scenes.Composer(readers.WORLD), np.random.default_rng(11)
    drawn = [composer.compose(rng) for _ in range(32)]
    images = [Image.fromarray(scene.image) for scene in drawn]
    captions = [scene.caption for scene in drawn]
    clip, captioner = Clip.open("miniature"), Captioner.open("miniature")
    vectors = clip.texts(captions)
    assert vectors is not None
    best = (clip.images(images) @ vectors.T).argmax(dim=1).tolist()
    assert sum(captions[i] == own for i, own in zip(best, captions, strict=True)) >= 26
    expected = [readers.description(scene.named).removeprefix("a picture of ") for scene in drawn]
    assert sum(a == b for a, b in zip(captioner.captions(images), expected, strict=True)) >= 26


def test_held_out_figures_are_stored() -> None:
    figures = json.loads((MINIATURE_FOLDER / "judges.json").read_text())
    assert figures["image_text"]["retrieval"] > 0.9
    assert figures["captioner"]["exact"] > 0.9
