"""CLIP models in open_clip's layout against the same network written down plainly, with its module names."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ebama.evaluation.judges.vision_language import Clip, clip_folder
from ebama.weights.tokenizer import clip_tokenizer

TEXTS = ["a cat and a red car", "a purple crown"]
SETTINGS: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3},
    },
    "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
}


class Activation(nn.Module):
    def __init__(self, quick: bool) -> None:
        super().__init__()
        self.quick = quick

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x) if self.quick else F.gelu(x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, quick: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("act", Activation(quick))
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, quick: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, quick) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self, quick: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 8, stride=8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(32))
        self.positional_embedding = nn.Parameter(torch.randn(17, 32))
        self.ln_pre, self.ln_post = nn.LayerNorm(32), nn.LayerNorm(32)
        self.transformer = Transformer(32, 4, 2, quick)
        self.proj = nn.Parameter(torch.randn(32, 24))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], dim=1) + self.positional_embedding
        out: Tensor = self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj
        return out


class Reference(nn.Module):
    def __init__(self, quick: bool) -> None:
        super().__init__()
        self.visual = Visual(quick)
        self.transformer = Transformer(16, 2, 3, quick)
        self.token_embedding = nn.Embedding(49408, 16)
        self.positional_embedding = nn.Parameter(torch.randn(77, 16))
        self.ln_final = nn.LayerNorm(16)
        self.text_projection = nn.Parameter(torch.randn(16, 24))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("attn_mask", torch.full((77, 77), -torch.inf).triu(1))

    def texts(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding
        x = self.ln_final(self.transformer(x, self.attn_mask))
        return x[torch.arange(len(x)), tokens.argmax(dim=1)] @ self.text_projection  # the end has the highest number


def folder_of(path: Path, network: Reference, settings: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "open_clip_config.json").write_text(json.dumps(settings))
    save_file(
        {key: value.contiguous() for key, value in network.state_dict().items()}, path / "open_clip_model.safetensors"
    )
    return path


@pytest.fixture
def network() -> Reference:
    torch.manual_seed(0)
    made = Reference(quick=True).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("pickled", [True, False])
@torch.no_grad()
def test_equals_the_network_written_down(tmp_path: Path, network: Reference, quick: bool, pickled: bool) -> None:
    for module in network.modules():
        if isinstance(module, Activation):
            module.quick = quick
    settings = {**SETTINGS, "model_cfg": {**SETTINGS["model_cfg"], "quick_gelu": quick}}
    folder = folder_of(tmp_path / "clip", network, settings)
    (folder / "config.json").write_text('{"architecture": "vit_tiny_clip"}')  # timm's, which is no transformers'
    if pickled:
        (folder / "open_clip_model.safetensors").unlink()
        parallel = {f"module.{name}": weight for name, weight in network.state_dict().items()}  # of several GPUs
        torch.save({"state_dict": parallel, "epoch": 3}, folder / "open_clip_pytorch_model.bin")
    clip = Clip.open(folder)
    assert re.fullmatch(r"CLIP model clip \([0-9a-f]{8}\)", clip.name)
    tokens = clip_tokenizer()(TEXTS, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    found = clip.texts(TEXTS)
    assert found is not None
    torch.testing.assert_close(found, F.normalize(network.texts(tokens), dim=1), atol=1e-5, rtol=0)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(2)]  # no resizing
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in images])
    mean, std = (torch.tensor(SETTINGS["preprocess_cfg"][name])[:, None, None] for name in ("mean", "std"))
    expected = F.normalize(network.visual((pixels - mean) / std), dim=1)
    torch.testing.assert_close(clip.images(images), expected, atol=1e-5, rtol=0)


def changed(part: str, name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(settings: dict[str, Any]) -> None:
        (settings["model_cfg"] if part == "model_cfg" else settings["model_cfg"][part])[name] = value

    return change


def prepared(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda settings: settings["preprocess_cfg"].update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("vision_cfg", "timm_model_name", "convnext"), "has vision_cfg.timm_model_name, which transformers'"),
        (changed("text_cfg", "hf_model_name", "roberta"), "has text_cfg.hf_model_name"),
        (changed("text_cfg", "vocab_size", 32000), "has a vocabulary of 32000; expected OpenAI's 49408"),
        (changed("vision_cfg", "layers", 3), r"does not fit open_clip_config.json: .* is missing, expected \[32, 32\]"),
        (changed("vision_cfg", "layers", 1), "there is no place for vision_model.encoder.layers.1"),
        (changed("model_cfg", "embed_dim", 8), r"is \[24, .*\], expected \[8, "),
        (
            lambda settings: settings.pop("model_cfg"),
            "open_clip_config.json describes no CLIP model: it lacks 'model_cfg'",
        ),
        (lambda settings: settings.update(model_cfg=[]), "describes no CLIP model: "),
        (changed("vision_cfg", "layers", [3, 4, 6, 3]), "describes no CLIP model: "),  # a ResNet's
        (changed("vision_cfg", "patch_size", None), "describes no CLIP model: "),
        *((changed("vision_cfg", "head_width", width), "describes no CLIP model: ") for width in (0, 128, "8", None)),
        (changed("vision_cfg", "mlp_ratio", math.inf), "describes no CLIP model: "),
        (changed("text_cfg", "heads", 3), "describes no CLIP model: "),
        (changed("model_cfg", "embed_dim", "x"), "describes no CLIP model: "),
        (changed("text_cfg", "context_length", 7_000_000), r"is \[77, 16\], expected \[7000000, 16\]"),
        (prepared("resize_mode", "longest"), "preprocess_cfg.resize_mode is 'longest'; expected shortest"),
        (prepared("size", 64), "preprocess_cfg.size is 64; expected 32"),
        *((prepared("std", std), "prepares pictures as values that are NaN") for std in ([0, 1, 1], [math.nan] * 3)),
        (prepared("mean", "x"), "pictures cannot be prepared"),
        (prepared("interpolation", "random"), "pictures cannot be prepared as its settings say: it lacks 'random'"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(
    tmp_path: Path, network: Reference, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    settings = json.loads(json.dumps(SETTINGS))
    change(settings)
    folder = folder_of(tmp_path / "clip", network, settings)
    with pytest.raises(ValueError, match=message) as caught:
        Clip.open(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "weight", "message"),
    [
        ("text_projection", torch.zeros(()), r"text_projection\.weight is \[\], expected"),
        ("text_projection", torch.zeros(1).expand(4_000_000, 4_000_000), r"is \[4000000, 4000000\], expected"),
        ("visual.proj", torch.zeros(32), r"visual_projection\.weight is \[32\], expected"),
        ("transformer.resblocks.0.attn.in_proj_weight", torch.zeros(()), r"k_proj\.weight is missing"),
        ("transformer.resblocks.0.attn.in_proj_weight", torch.zeros(2, 16), r"k_proj\.weight is missing"),
        (
            "transformer.resblocks.0.attn.in_proj_bias",
            torch.zeros(48, dtype=torch.int8),
            r"k_proj.bias is in torch.int8",
        ),
    ],
)
def test_weights_of_other_shapes_and_kinds_are_refused(
    tmp_path: Path, network: Reference, key: str, weight: Tensor, message: str
) -> None:
    folder = folder_of(tmp_path / "clip", network, SETTINGS)
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({**network.state_dict(), key: weight}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match=message) as caught:
        Clip.open(folder)
    assert "\n" not in str(caught.value)


def test_without_weights(tmp_path: Path, network: Reference) -> None:
    folder = folder_of(tmp_path / "clip", network, SETTINGS)
    assert clip_folder(folder) == folder
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no weights: expected open_clip_model\.safetensors or"):
        Clip.open(folder)
