"""`save`: what it writes is what `load` and diffusers read, and nothing half-written is left behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import TINY_V2_V
from safetensors.torch import load_file, save_file
from torch import nn
from weights_samples import COMPONENTS, TINY, compvis_state, differing, random_model

from ebama.models import MINIATURE, SD_V1, StableDiffusionConfig, VAEConfig
from ebama.weights import CheckpointError, StableDiffusion, inspect, load, save
from ebama.weights.files.tensors import write_tensors
from ebama.weights.layouts import token_table as trimmed
from ebama.weights.layouts.diffusers import read_folder_config
from ebama.weights.layouts.token_table import TABLE
from ebama.weights.layouts.writing import folder_jsons


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return random_model()


SMALLER = replace(TINY, vae=replace(TINY.vae, widths=(8, 8)))


def networks_of(folder: Path, config: StableDiffusionConfig | None = None) -> StableDiffusion:
    """What `load` reads of a folder that was saved, without its tokenizer, which takes long to open."""
    shutil.rmtree(folder / "tokenizer", ignore_errors=True)
    return load(folder, config=config)


@pytest.mark.slow
def test_compvis_to_ours_to_diffusers_to_ours(model: StableDiffusion, tmp_path: Path) -> None:
    torch.save({"state_dict": compvis_state(model)}, tmp_path / "a.ckpt")
    first = load(tmp_path / "a.ckpt", config=TINY)
    save(first, tmp_path / "b")
    second = load(tmp_path / "b")
    save(second, tmp_path / "c.safetensors", layout="compvis")
    third = load(tmp_path / "c.safetensors", config=TINY)
    for again in (first, second, third):
        assert differing(model, again) == []
    assert (second.config.unet, second.config.vae, second.config.text) == (TINY.unet, TINY.vae, TINY.text)
    assert second.config.sample_size == TINY.sample_size
    assert inspect(tmp_path / "b").complete


def test_compvis_files_have_the_trainer_s_names_and_shapes(model: StableDiffusion, tmp_path: Path) -> None:
    save(model, tmp_path / "m.safetensors", layout="compvis")
    expected = {
        key: tuple(weight.shape)
        for key, weight in compvis_state(model).items()
        if "." in key and not key.endswith("position_ids")
    }
    assert {key: tuple(weight.shape) for key, weight in load_file(tmp_path / "m.safetensors").items()} == expected


def _normed(sd: StableDiffusion) -> StableDiffusion:
    torch.nn.utils.parametrizations.weight_norm(sd.unet.conv_out)
    return sd


def _without_a_bias(sd: StableDiffusion) -> StableDiffusion:
    sd.unet.conv_out.bias = None
    return sd


def _wrapped(sd: StableDiffusion) -> StableDiffusion:
    sd.unet.conv_in = nn.Sequential(sd.unet.conv_in)
    return sd


@pytest.mark.parametrize("layout", ["diffusers", "compvis"])
@pytest.mark.parametrize(
    ("changed", "component", "names"),
    [
        (lambda sd: replace(sd, vae=torch.compile(sd.vae, backend="eager")), "vae", "_orig_mod"),
        (lambda sd: replace(sd, text_encoder=torch.compile(sd.text_encoder, backend="eager")), "text_encoder", "_orig"),
        (lambda sd: replace(sd, config=SMALLER), "vae", "encoder.mid_block"),
        (_normed, "unet", "conv_out.parametrizations"),
        (_without_a_bias, "unet", "1 differ (conv_out.bias)"),
        (_wrapped, "unet", "conv_in.0.weight"),
    ],
    ids=["compiled", "compiled too", "of another size", "normed", "without a bias", "wrapped"],
)
def test_a_network_that_is_not_as_its_configuration_says_is_not_saved(
    tmp_path: Path, changed: Callable[[StableDiffusion], StableDiffusion], component: str, names: str, layout: Any
) -> None:
    path = tmp_path / "m.safetensors" if layout == "compvis" else tmp_path / "m"
    save(random_model(), path, layout)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=f"^The weights of {component} are not those of its config") as caught:
        save(changed(random_model()), path, layout)
    assert names in str(caught.value)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_permissions_are_those_of_any_new_file(model: StableDiffusion, tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    save(model, tmp_path / "m")
    save(model, tmp_path / "m.safetensors", layout="compvis")
    write_tensors(tmp_path / "tensors", {"turned": torch.ones(2, 3).T})
    modes = {file.stat().st_mode for file in tmp_path.rglob("*") if file.is_file()}
    assert modes == {(tmp_path / "any").stat().st_mode}
    assert len({folder.stat().st_mode for folder in (tmp_path / "m").rglob("*") if folder.is_dir()}) == 1


@pytest.mark.slow
def test_save_converts_to_the_given_dtype(model: StableDiffusion, tmp_path: Path) -> None:
    save(model, tmp_path / "half", dtype=torch.float16)
    found = inspect(tmp_path / "half")
    assert {dtype for part in found.components.values() for dtype in part.dtypes} == {"float16"}
    weight = networks_of(tmp_path / "half").unet.conv_in.weight
    assert torch.equal(weight, model.unet.conv_in.weight.half().float())


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"mid_attention": False}, {"scale": 0.7}, {"image_channels": 1}])
def test_configuration_survives_save_and_load(tmp_path: Path, changes: dict[str, float]) -> None:
    config = replace(TINY, vae=VAEConfig(**{**vars(TINY.vae), **changes}))
    save(random_model(config), tmp_path / "m")
    assert networks_of(tmp_path / "m").config.vae == config.vae


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_eight_bits_are_written(model: StableDiffusion, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "m.safetensors"
    save(model, path, "compvis", dtype=dtype)
    weight, name = model.unet.state_dict()["conv_in.weight"], "model.diffusion_model.input_blocks.0.0.weight"
    assert torch.equal(load_file(path)[name].float(), weight.to(dtype).float())
    assert torch.equal(load(path, config=TINY).unet.state_dict()["conv_in.weight"], weight.to(dtype).float())


def test_arguments_of_other_kinds_are_named(model: StableDiffusion, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for dtype in ("float16", np.float16, 16, torch.int8, torch.float8_e4m3fnuz):
        with pytest.raises(ValueError, match=r"dtype is .*; expected one of floating point, .*, or None"):
            save(model, path, "compvis", dtype=dtype)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"sd is a UNet; expected a StableDiffusion"):
        save(model.unet, path, "compvis")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"trim_ids is a list; expected a tensor"):
        save(model, tmp_path / "m", trim_ids=[1, 2])  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", ["diffusers", "compvis"])
def test_names_that_no_library_can_open_are_refused(model: StableDiffusion, tmp_path: Path, layout: Any) -> None:
    with pytest.raises(CheckpointError, match=r"letters in its name that are no UTF-8.*; rename it"):
        save(model, tmp_path / "caf\udce9.safetensors", layout)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"output_layer": -2}, {"final_norm": False}])
def test_output_layers_that_a_folder_cannot_name_are_refused(
    model: StableDiffusion, tmp_path: Path, changes: dict[str, int]
) -> None:
    """The weights are the same, so another `config` gives such an encoder from any checkpoint."""
    config = replace(TINY, text=replace(TINY.text, **changes))
    with pytest.raises(ValueError, match=r"no place in a config\.json"):
        save(replace(model, config=config), tmp_path / "m")
    assert not (tmp_path / "m").exists()
    save(model, tmp_path / "m")
    plain, other = networks_of(tmp_path / "m"), networks_of(tmp_path / "m", config)
    assert not torch.allclose(plain.encode_text(["a cat"]), other.encode_text(["a cat"]), atol=1e-3)


@pytest.mark.slow
def test_trimmed_folder_holds_only_the_rows_asked_for(tmp_path: Path) -> None:
    model = random_model()
    ids = torch.tensor([320, 6902, 49407])
    table = model.text_encoder.state_dict()[TABLE]
    rows = table[ids].clone()
    table.copy_(table[0].clone().expand_as(table))
    table[ids] = rows
    save(model, tmp_path / "m", dtype=torch.float16, trim_ids=ids)
    assert sorted(file.relative_to(tmp_path / "m").as_posix() for file in (tmp_path / "m").rglob("*.*")) == [
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    stored = load_file(tmp_path / "m" / "text_encoder" / "model.safetensors")
    assert stored["embeddings.token_embedding.ids"].dtype == torch.int64
    assert stored["embeddings.token_embedding.rows"].shape == (3, 8)
    assert torch.equal(load(tmp_path / "m").text_encoder.state_dict()[TABLE], table.half().float())


def test_a_table_that_is_there_twice_is_refused(model: StableDiffusion, tmp_path: Path) -> None:
    save(model, tmp_path / "m")
    file = tmp_path / "m" / "text_encoder" / "model.safetensors"
    parts = {name: torch.zeros(1, 8) for name in (trimmed.ROWS, trimmed.IDS)} | {trimmed.UNKNOWN: torch.zeros(8)}
    save_file(load_file(file) | parts, file)
    with pytest.raises(CheckpointError, match="holds the token table twice"):
        load(tmp_path / "m")


@pytest.mark.slow
def test_interrupted_saves_leave_what_was_there(
    model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(model, tmp_path / "m")
    save(model, tmp_path / "m.safetensors", layout="compvis")
    other = random_model(seed=1)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def interrupted(path: Path, tensors: object, metadata: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("ebama.weights.saving"), "write_tensors", interrupted)
    for name in ("m", "m.safetensors", "n"):
        with pytest.raises(KeyboardInterrupt):
            save(other, tmp_path / name, layout="compvis" if "." in name else "diffusers")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.safetensors"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits")
def test_a_disk_that_is_full_leaves_what_was_there(model: StableDiffusion, tmp_path: Path) -> None:
    import resource

    file, folder = tmp_path / "m.safetensors", tmp_path / "m"
    folder.mkdir()
    for path in (file, folder / "keep.txt"):
        path.write_text("before")
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        for target, layout in ((file, "compvis"), (folder, "diffusers")):
            with pytest.raises(OSError, match=r"\.safetensors could not be written: .*too large"):
                save(model, target, layout)  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["keep.txt", "m", "m.safetensors"]
    assert file.read_text() == (folder / "keep.txt").read_text() == "before"


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [1, 2])
def test_a_folder_that_is_replaced_is_the_old_one_or_the_new_one(
    model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    save(model, tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text("mine")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    renames = iter(range(1, 9))
    rename = os.rename

    def interrupted(source: Path, target: Path) -> None:
        if next(renames) == stop_at:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(random_model(seed=1), tmp_path / "m")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.slow
def test_links_survive_when_their_folder_is_replaced(model: StableDiffusion, tmp_path: Path) -> None:
    save(model, tmp_path / "m")
    weights = tmp_path / "m" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")
    (tmp_path / "m" / "extra").symlink_to("vae")
    (tmp_path / "link").symlink_to("m")
    content = (tmp_path / "blob").read_bytes()
    save(random_model(seed=1), tmp_path / "link")
    assert (tmp_path / "blob").read_bytes() == content
    assert (tmp_path / "m" / "extra").readlink() == Path("vae")
    assert differing(random_model(seed=1), networks_of(tmp_path / "link")) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blob", "link", "m"]


@pytest.mark.slow
def test_a_folder_of_a_containers_image_is_refused_in_one_line(
    model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m" / "vae").mkdir(parents=True)
    (tmp_path / "m" / "vae" / "README.md").write_text("mine")
    rename = os.rename

    def across(source: Path, target: Path) -> None:
        if Path(source) == tmp_path / "m":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", across)
    with pytest.raises(ValueError, match=r"m cannot be replaced \(Invalid cross-device link\).*; choose another"):
        save(model, tmp_path / "m")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["m", "m/vae", "m/vae/README.md"]


@pytest.mark.slow
def test_a_disk_without_modes_and_links_is_written_to(
    model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    (tmp_path / "m" / "mine").mkdir(parents=True)
    (tmp_path / "m" / "mine" / "README.md").write_text("mine")
    monkeypatch.setattr(os, "chmod", refused)
    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(Path, "chmod", refused)
    save(model, tmp_path / "m")
    save(model, tmp_path / "m.safetensors", layout="compvis")
    assert (tmp_path / "m" / "mine" / "README.md").read_text() == "mine"
    assert differing(model, networks_of(tmp_path / "m")) == []
    assert (tmp_path / "m.safetensors").is_file()


@pytest.mark.slow
def test_modes_stay(model: StableDiffusion, tmp_path: Path) -> None:
    for save_it in (lambda: save(model, tmp_path / "m"), lambda: save(model, tmp_path / "m.safetensors", "compvis")):
        save_it()
        changed = {path: 0o700 if path.is_dir() else 0o640 for path in tmp_path.rglob("*")}
        for path, mode in changed.items():
            path.chmod(mode)
        save_it()
        assert {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")} == changed


@pytest.mark.slow
def test_processes_that_save_at_once_lose_nothing(
    model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(model, tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text("mine")
    rename = os.rename

    def slowly(source: Path, target: Path) -> None:
        time.sleep(0.01)
        rename(source, target)

    monkeypatch.setattr(os, "rename", slowly)
    with ThreadPoolExecutor(3) as pool:  # each holds a lock of its own, as processes do
        list(pool.map(lambda _: save(model, tmp_path / "m"), range(6)))
    assert (tmp_path / "m" / "README.md").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert differing(model, networks_of(tmp_path / "m")) == []


@pytest.mark.slow
def test_what_load_would_refuse_is_not_saved(tmp_path: Path) -> None:
    model = random_model()
    save(model, tmp_path / "m")
    for dtype in (torch.int8, torch.bool, torch.complex64):
        with pytest.raises(ValueError, match=f"dtype is {dtype}; expected one of floating point"):
            save(model, tmp_path / "m", dtype=dtype)
    model.unet.conv_in.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(ValueError, match=r"conv_in\.weight has values that are NaN or infinite in torch\.float16"):
        save(model, tmp_path / "m", dtype=torch.float16)
    assert differing(random_model(), networks_of(tmp_path / "m")) == []


@pytest.mark.slow
def test_weights_that_share_memory_are_saved(model: StableDiffusion, tmp_path: Path) -> None:
    tied = random_model()
    first, second, *_ = (module for module in tied.unet.modules() if isinstance(module, torch.nn.GroupNorm))
    first.weight = second.weight
    save(tied, tmp_path / "m")
    assert differing(tied, networks_of(tmp_path / "m")) == []


@pytest.mark.slow
def test_saving_over_the_folder_a_model_came_from(model: StableDiffusion, tmp_path: Path) -> None:
    save(model, tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text("mine")
    mapped = networks_of(tmp_path / "m")
    save(random_model(seed=1), tmp_path / "m")
    assert differing(model, mapped) == []
    assert (tmp_path / "m" / "tokenizer").is_dir()
    assert differing(random_model(seed=1), networks_of(tmp_path / "m")) == []
    assert (tmp_path / "m" / "README.md").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("component", COMPONENTS)
def test_shards_that_were_there_are_not_read_in_place_of_what_is_saved(
    component: str, model: StableDiffusion, tmp_path: Path
) -> None:
    save(random_model(seed=1), folder := tmp_path / "m")
    (file,) = (folder / component).glob("*.safetensors")
    shard = file.rename(file.with_stem(f"{file.stem}-00001-of-00001"))
    index = json.dumps({"weight_map": dict.fromkeys(load_file(shard), shard.name)})
    kept = [folder / "unet" / "notes.json", folder / shard.name, file.with_name(f"{file.stem}.fp16.safetensors")]
    for path, text in {file.with_name(f"{file.name}.index.json"): index, **dict.fromkeys(kept, "")}.items():
        path.write_text(text)
    save(model, folder)
    assert differing(model, networks_of(folder)) == []
    assert [path.exists() for path in (*kept, shard)] == [True, True, True, False]


@pytest.mark.slow
def test_what_another_model_left_is_not_read_with_this_one(
    model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    save(random_model(TINY_V2_V), folder)
    for name in ("special_tokens_map", "added_tokens", "notes"):
        (folder / "tokenizer" / f"{name}.json").write_text('{"pad_token": "!"}' if "map" in name else "{}")
    mine = [folder / "backup" / name for name in ("tokenizer/vocab.json", "unet/model-00001-of-00002.safetensors")]
    for path in mine:
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    save(model, folder)
    again = load(folder)
    assert again.config == replace(model.config, name=again.config.name)
    assert torch.equal(again.encode_text(["a cat"]), model.encode_text(["a cat"]))
    assert not {"special_tokens_map.json", "added_tokens.json"} & set(os.listdir(folder / "tokenizer"))
    assert (folder / "tokenizer" / "notes.json").exists()
    assert [path.read_text() for path in mine] == ["mine", "mine"]
    save(random_model(TINY_V2_V), folder)
    few = random_model()
    few.text_encoder.embeddings.token_embedding.weight[2:] = 0
    save(few, folder, trim_ids=torch.tensor([0, 1]))  # writes neither tokenizer nor scheduler
    assert not list(folder.glob("tokenizer/[mtv]*")) + list(folder.glob("scheduler/*"))


def test_a_folder_of_two_text_encoders_is_not_made_one_of_one(model: StableDiffusion, tmp_path: Path) -> None:
    (tmp_path / "m" / "text_encoder_2").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"m holds a text_encoder_2, .*; choose another folder"):
        save(model, tmp_path / "m")


def test_a_configuration_that_lies_beside_a_saved_file_is_said(model: StableDiffusion, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("model: {params: {parameterization: v}}")
    with pytest.warns(UserWarning, match=r"m\.yaml lies there: `load` will read m\.safetensors as it says"):
        save(model, tmp_path / "m.safetensors", "compvis")
    assert (tmp_path / "m.safetensors").is_file()


def test_what_a_link_leads_to_is_left_alone(model: StableDiffusion, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"shared")
    (tmp_path / "m.safetensors").symlink_to(tmp_path / "blob")
    save(model, tmp_path / "m.safetensors", "compvis")
    assert (tmp_path / "blob").read_bytes() == b"shared"
    assert not (tmp_path / "m.safetensors").is_symlink()


def test_where_nothing_can_be_written_is_named(model: StableDiffusion, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, layout in (("file/m", "diffusers"), ("file/m.safetensors", "compvis")):
        with pytest.raises(ValueError, match=r"Nothing can be written to .*file \(.*\); choose another folder"):
            save(model, tmp_path / path, layout)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["m.safetensors", "m.ckpt"])
def test_a_folder_is_not_called_as_a_file_is(model: StableDiffusion, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} would be a folder; layout='compvis' writes a single file"):
        save(model, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "found"), [("path.ismount", True), ("access", False)])
def test_a_folder_that_cannot_be_replaced_is_refused_at_once(
    model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, found: bool
) -> None:
    (tmp_path / "m").mkdir()
    monkeypatch.setattr(f"os.{name}", lambda *_: found)
    with pytest.raises(ValueError, match=r"m is a mounted disk, or in .* read only, .*; choose one in it, as .*/model"):
        save(model, tmp_path / "m")
    assert not list((tmp_path / "m").iterdir())


@pytest.mark.slow
def test_save_goes_where_a_path_leads(model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, to in {"later": "there", "loop": "loop", "to working": "working/in"}.items():
        (tmp_path / name).symlink_to(tmp_path / to)
    (tmp_path / "working" / "in").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe.safetensors")
    monkeypatch.chdir(tmp_path / "working" / "in")
    for nowhere in (".", "..", tmp_path, "sub/..", tmp_path / "to working"):
        with pytest.raises(ValueError, match="is where this program runs, which cannot be replaced"):
            save(model, nowhere)
    with pytest.raises(ValueError, match="is a loop of links"):
        save(model, tmp_path / "loop")
    for pipe in ("pipe.safetensors", "/dev/null"):
        with pytest.raises(ValueError, match="is a device or a pipe"):
            save(model, tmp_path / pipe, layout="compvis")
    assert not os.listdir(".")
    save(model, "sub/../m")
    save(model, tmp_path / "later")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("later", "loop", "pipe.safetensors", "there", "to working", "working")
    ]
    for path in (Path("m"), tmp_path / "there"):
        assert differing(model, networks_of(path)) == []


def test_save_refuses_wrong_targets(model: StableDiffusion, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; a diffusers checkpoint is a folder"):
        save(model, tmp_path / "file")
    for name in ("m.ckpt", "m"):
        with pytest.raises(ValueError, match=r"ends in \.safetensors"):
            save(model, tmp_path / name, layout="compvis")
    with pytest.raises(ValueError, match="'ldm'; expected 'diffusers' or 'compvis'"):
        save(model, tmp_path / "m", layout="ldm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="diffusers layout only"):
        save(model, tmp_path / "m.safetensors", layout="compvis", trim_ids=torch.tensor([1]))
    for nowhere in ("", None, b"m", 3):  # an empty path would be the working folder
        with pytest.raises(ValueError, match=r"path is .*; expected a file or a folder"):
            save(model, nowhere)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_sd_v1_json_is_that_of_the_published_model() -> None:
    unet = folder_jsons(SD_V1)["unet/config.json"]
    assert unet["block_out_channels"] == [320, 640, 1280, 1280]
    assert unet["down_block_types"] == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert unet["up_block_types"] == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    assert unet["cross_attention_dim"] == 768
    assert unet["sample_size"] == 64
    assert folder_jsons(SD_V1)["vae/config.json"]["sample_size"] == 512
    assert json.loads(json.dumps(folder_jsons(SD_V1))) == folder_jsons(SD_V1)


@pytest.mark.parametrize("config", [SD_V1, MINIATURE, TINY], ids=lambda config: config.name)
def test_json_reads_back_as_the_configuration_it_was_written_from(
    tmp_path: Path, config: StableDiffusionConfig
) -> None:
    folder = tmp_path / config.name
    for name, values in folder_jsons(config).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values))
    assert read_folder_config(folder) == config


@pytest.mark.slow
def test_diffusers_reads_what_we_write(model: StableDiffusion, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    save(model, tmp_path / "m")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "m", local_files_only=True)
    assert type(pipe.scheduler).__name__ == "PNDMScheduler"
    z = torch.randn(2, 4, 16, 16)
    prompts = ["a purple crown and a blue suitcase", ""]
    with torch.no_grad():
        context = model.encode_text(prompts)
        ids = pipe.tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        pairs = [
            (context, pipe.text_encoder(ids["input_ids"]).last_hidden_state),
            (model.unet(z, 500, context), pipe.unet(z, 500, context).sample),
            (model.vae.decode(z), pipe.vae.decode(z).sample),
        ]
    for ours, theirs in pairs:
        assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5
    for name in COMPONENTS:
        assert set(getattr(pipe, name).state_dict()) == set(getattr(model, name).state_dict())
