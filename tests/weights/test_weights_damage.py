"""Random damage to small checkpoints of every layout: a clean load or one `CheckpointError`, never anything else."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from pathlib import Path

import pytest
import torch
from reference import TINY_V2_V, TINY_XL
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor
from weights_samples import (
    TINY,
    components,
    compvis_state,
    lightning_extras,
    random_model,
    save_with_globals,
    small_tokenizer,
)

from ebama.models import StableDiffusionConfig, UNetConfig, VAEConfig
from ebama.weights import CheckpointError, StableDiffusion, inspect, load, save
from ebama.weights.tokenizer import read_tokenizer

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

model = cache(random_model)
SMALL = replace(
    TINY,
    unet=UNetConfig(widths=(4,), attention=(False,), heads=(1,), blocks=1, context_width=4, norm_groups=2),
    vae=VAEConfig(widths=(2,), blocks=1, norm_groups=2, mid_attention=False),
    sample_size=8,
    text=replace(TINY.text, width=4),
)
FEW_WORDS = replace(SMALL, text=replace(SMALL.text, vocabulary=914), name="few words")
SMALL_V2_V = replace(
    TINY_V2_V,
    unet=replace(SMALL.unet, linear_projections=True),
    vae=SMALL.vae,
    sample_size=8,
    text=replace(TINY_V2_V.text, width=4),
)
SMALL_XL = replace(
    TINY_XL,
    unet=replace(SMALL.unet, context_width=8, vector_width=6 + 12, linear_projections=True),
    vae=replace(SMALL.vae, upcast=True),
    sample_size=8,
    text=replace(TINY_XL.text, width=4),
    text_2=replace(TINY_XL.text_2, width=4, heads=2, projection_width=6),
)

SINGLE = ("safetensors", "zip", "legacy")
FOLDERS = ("folder", "folder of pickles", "folder with a tokenizer")
V2 = ("v2 safetensors", "v2 zip", "v2 folder")
XL = ("xl safetensors", "xl zip", "xl folder")
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    """The files of one checkpoint of each layout, in float16 to keep the token table small."""
    folder = tmp_path_factory.mktemp("originals")
    small = model(SMALL)
    state = {key: w.half() if w.is_floating_point() else w for key, w in compvis_state(small).items()}
    layouts = {"safetensors": {"model": to_safetensors(state)}}
    for container in ("zip", "legacy"):
        extras = {**lightning_extras(), "state_dict": state}
        save_with_globals(extras, folder / container, legacy=container == "legacy")
        layouts[container] = {"model": (folder / container).read_bytes()}
    files = _saved(small, folder / "m")
    configs = {name: content for name, content in files.items() if name.endswith(".json")}
    weights = {name.split("/")[0]: from_safetensors(content) for name, content in files.items() if name not in configs}
    layouts["folder"] = configs | _sharded(weights)
    layouts["folder of pickles"] = configs | {
        f"{name}/{'pytorch_model' if name == 'text_encoder' else 'diffusion_pytorch_model'}.bin": _pickled(part)
        for name, part in weights.items()
    }
    words = small_tokenizer(folder)
    few_words = replace(model(FEW_WORDS), tokenizer=read_tokenizer(folder, len(words), 77))
    layouts["folder with a tokenizer"] = _saved(few_words, folder / "t", tokenizer=True)
    return layouts | _newer_layouts(SMALL_V2_V, V2, folder) | _newer_layouts(SMALL_XL, XL, folder)


def _newer_layouts(config: StableDiffusionConfig, names: tuple[str, ...], folder: Path) -> dict[str, Files]:
    state = {key: w.half() if w.is_floating_point() else w for key, w in compvis_state(model(config)).items()}
    contents = (
        {"model": to_safetensors(state)},
        {"model": _pickled({"state_dict": state})},
        _saved(model(config), folder / config.name),
    )
    return dict(zip(names, contents, strict=True))


def _saved(sd: StableDiffusion, folder: Path, tokenizer: bool = False) -> Files:
    """The files of a folder; those of CLIP's whole tokenizer would take longer to read than all others."""
    save(sd, folder, dtype=torch.float16)
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.*")}
    return {name: content for name, content in files.items() if tokenizer or not name.startswith("tokenizer")}


def _config(layout: str) -> StableDiffusionConfig:
    few_words = layout == "folder with a tokenizer"
    return SMALL_XL if layout in XL else SMALL_V2_V if layout in V2 else FEW_WORDS if few_words else SMALL


def _pickled(weights: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


def _sharded(weights: dict[str, dict[str, Tensor]]) -> Files:
    """Components as safetensors, the U-Net in two shards."""
    stem, unet = "diffusion_pytorch_model", weights["unet"]
    shards = {f"{stem}-0000{i + 1}-of-00002.safetensors": list(unet)[i::2] for i in (0, 1)}
    index = {"metadata": {}, "weight_map": {key: shard for shard, keys in shards.items() for key in keys}}
    return {
        f"unet/{stem}.safetensors.index.json": json.dumps(index).encode(),
        **{f"unet/{shard}": to_safetensors({key: unet[key] for key in keys}) for shard, keys in shards.items()},
        f"vae/{stem}.safetensors": to_safetensors(weights["vae"]),
        "text_encoder/model.safetensors": to_safetensors(weights["text_encoder"]),
    }


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "damaged"


def _write(files: Files, scratch: Path) -> Path:
    """Write anew (a mapped file must not be rewritten in place); the path to load."""
    shutil.rmtree(scratch, ignore_errors=True)
    for name, content in files.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).write_bytes(content)
    return scratch / "model" if "model" in files else scratch


def _load(path: Path, config: StableDiffusionConfig = SMALL) -> StableDiffusion:
    return load(path, config=config if path.is_file() else None)


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, float, bytes]:
    """How (flip bits, cut, insert or remove), where (0 start .. 1 end; headers and directories most), and the bytes."""
    distance = draw(st.floats(0, 1)) ** draw(st.sampled_from([1, 4, 16]))
    where = distance if draw(st.booleans()) else 1 - distance
    return draw(st.sampled_from(["flip", "cut", "insert", "remove"])), where, draw(st.binary(min_size=1, max_size=8))


def _damaged(content: bytes, how: str, where: float, data: bytes) -> bytes:
    start = int(where * (len(content) - 1))
    before, hit, after = content[:start], content[start : start + len(data)], content[start + len(data) :]
    if how == "flip":
        return before + bytes(a ^ b for a, b in zip(hit, data, strict=False)) + after
    return {"cut": before, "insert": before + data + hit + after, "remove": before + after}[how]


def _changed_values(a: StableDiffusion, b: StableDiffusion) -> int:
    weights = ((getattr(sd, name).parameters() for name in components(a)) for sd in (a, b))
    pairs = zip(*map(chain.from_iterable, weights), strict=True)
    return sum(int((ours.half() != theirs.half()).sum()) for ours, theirs in pairs)


def _outcome(use: Callable[[Path], object], path: Path) -> object:
    try:
        return use(path)
    except CheckpointError as error:
        return str(error)


def _check(
    originals: dict[str, Files], scratch: Path, layout: str, which: int, damage: tuple[str, float, bytes]
) -> None:
    files = originals[layout]
    hit = sorted(files)[which % len(files)]
    path = _write({**files, hit: _damaged(files[hit], *damage)}, scratch)
    for outcome in (_outcome(inspect, path), _outcome(partial(_load, config=_config(layout)), path)):
        if isinstance(outcome, str):
            assert str(path) in outcome
            assert "\n" not in outcome
            assert "weights_only" not in outcome
        elif isinstance(outcome, StableDiffusion) and (layout, damage[0]) != ("legacy", "flip"):
            # Flipped bytes of a weight cannot be noticed, nor can those of a legacy pickle, which has no checksum.
            allowed = len(damage[2]) if damage[0] == "flip" else 0
            assert _changed_values(model(_config(layout)), outcome) <= allowed


@pytest.mark.slow
@pytest.mark.parametrize("layout", [*SINGLE, *FOLDERS, *V2, *XL])
def test_undamaged_checkpoints_load(originals: dict[str, Files], scratch: Path, layout: str) -> None:
    config = _config(layout)
    assert _changed_values(model(config), _load(_write(originals[layout], scratch), config)) == 0


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(layout=st.sampled_from([*SINGLE, *FOLDERS, *V2, *XL]), which=st.integers(0, 19), damage=damages())
def test_damage_is_refused_or_harmless(
    originals: dict[str, Files], scratch: Path, layout: str, which: int, damage: tuple[str, float, bytes]
) -> None:
    _check(originals, scratch, layout, which, damage)


@pytest.mark.slow
@pytest.mark.parametrize("layout", SINGLE)
@pytest.mark.parametrize("length", [0, 1, 2, 9])
def test_the_first_bytes_alone_are_refused(
    originals: dict[str, Files], scratch: Path, layout: str, length: int
) -> None:
    (content,) = originals[layout].values()
    path = _write({"model": content[:length]}, scratch)
    for use in (inspect, _load):
        with pytest.raises(CheckpointError, match="damaged/model"):
            use(path)


@pytest.mark.slow
def test_mapped_values_outlive_a_replaced_file(originals: dict[str, Files], scratch: Path) -> None:
    path = _write(originals["safetensors"], scratch)
    found = load(path, config=SMALL, dtype=torch.float16)
    path.unlink()
    path.write_bytes(b"")
    assert _changed_values(model(SMALL), found) == 0


# --- the system refuses ---


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits")
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy", pytest.param("folder", marks=pytest.mark.slow)])
def test_too_many_open_files_are_no_damage(tmp_path: Path, kind: str) -> None:
    import resource

    path, sd = tmp_path / "m", random_model()
    if kind == "folder":
        save(sd, path)
    elif kind == "safetensors":
        path.write_bytes(to_safetensors(compvis_state(sd)))
    else:
        torch.save(compvis_state(sd), path, _use_new_zipfile_serialization=kind == "zip")
    held = [os.open(os.devnull, os.O_RDONLY)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 8, limits[1]))
    messages = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        while held:  # one file more may be opened each time, until all can be
            try:
                load(path, config=TINY)
                break
            except CheckpointError as error:
                messages.append(str(error))
            os.close(held.pop())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for number in held:
            os.close(number)
    assert 1 <= len(messages) <= 4
    assert {message.rpartition(" cannot be opened: ")[2] for message in messages} == {"Too many open files."}
    assert all(message.startswith(str(path)) for message in messages)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "unable to mmap 537 bytes from file </m.ckpt>: Cannot allocate memory (12)",  # torch's
        "Cannot allocate memory (os error 12)",  # safetensors'
    ],
)
@pytest.mark.parametrize("kind", [RuntimeError, MemoryError])
def test_a_file_that_memory_has_no_room_for_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, kind: type[Exception]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise kind(words)

    torch.save(compvis_state(random_model()), tmp_path / "m.ckpt")
    monkeypatch.setattr(torch, "load", refused)
    with pytest.raises(MemoryError, match="Cannot allocate memory"):
        load(tmp_path / "m.ckpt", config=TINY)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="this torch has no such numbers")
def test_numbers_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    state = compvis_state(random_model())
    key = "model.diffusion_model.out.0.weight"
    state[key] = torch.zeros(state[key].shape, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    torch.save(state, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match=r"out\.0\.weight is of torch\.float4_e2m1fn_x2, which cannot be read"):
        load(tmp_path / "m.ckpt", config=TINY)
