"""`save`: write a model as a diffusers folder or as a CompVis single file, in safetensors."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ebama.models import UNet
from ebama.samplers import NoiseSchedule

from .errors import listed
from .files.regular import given_path
from .files.tensors import DTYPES, write_tensors
from .layouts.compvis import component_names, rank_may_differ
from .layouts.detect import preset_of
from .layouts.folder import STEMS, TOKENIZERS, is_of_shards
from .layouts.parametrisation import may_skip_layers
from .layouts.token_table import TABLE, trim
from .layouts.writing import folder_jsons
from .networks import expected_shapes, shapes
from .stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

Weights = dict[str, Tensor]

_READ_TOGETHER = {
    *("model_index.json", "scheduler_config.json", "tokenizer.json", "vocab.json", "merges.txt"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
}
"""What a folder says of another model must not be read with the weights of this one, which may not write them all."""


def save(
    sd: StableDiffusion,
    path: str | os.PathLike[str],
    layout: Literal["diffusers", "compvis"] = "diffusers",
    *,
    dtype: torch.dtype | None = None,
    trim_ids: Tensor | None = None,
) -> None:
    """Write `sd` to `path`, a folder (diffusers) or a `.safetensors` file (compvis); `load` reads either back.

    dtype: of the written weights; None for the model's own.
    trim_ids: ids [n] of the token table's rows to keep one by one, where all others are equal (see `token_table`).
        Only `load` can read the result, so it comes without the tokenizer and scheduler that diffusers wants.

    Everything is written beside `path` and renamed when complete: an interrupted call leaves what was there.
    A link to a file is replaced by the file. Other files of a folder that exists stay in it, but for shards of the
    weights that it had, its index, tokenizers and scheduler. Of two calls at once the second waits.

    A noise schedule that is not Stable Diffusion v1's is written as `alphas_cumprod`, which folders have no place for.
    A single file of a U-Net that predicts v has an empty `v_pred`, one of latents of another scale than its kind's has
    `scale_factor`, one that reads CLIP at an earlier layer says so in its metadata; of OpenCLIP it holds what the model
    reads, without the last layer of Stable Diffusion 2's.

    Raises ValueError for a dtype that is not floating point, for weights that are not finite in it, which `load` would
    refuse, for a network that is not as its configuration says, for what the layout cannot hold, and for a path where
    it cannot be written.
    """
    if not isinstance(sd, StableDiffusion):
        raise ValueError(
            f"sd is a {type(sd).__name__}; expected a StableDiffusion, as `load` gives and a Pipeline has."
        )
    if not isinstance(sd.unet, UNet):
        raise ValueError(f"The network is a {type(sd.unet).__name__}, which no layout has; only a UNet can be saved.")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(
            f"dtype is {dtype!r}; expected one of floating point, {' or '.join(map(str, DTYPES))}, or None."
        )
    if not isinstance(trim_ids, Tensor | None):
        raise ValueError(f"trim_ids is a {type(trim_ids).__name__}; expected a tensor of token ids, or None.")
    if layout == "compvis":
        if trim_ids is not None:
            raise ValueError("trim_ids works for the diffusers layout only.")
        file = _file(given_path(path))
        with _beside(file) as folder:
            weights = compvis_weights(sd)
            marks = {"v_pred": torch.zeros(0, device="cpu")} if sd.config.prediction == "v" else {}
            marks |= _stored_scale(sd, weights) | _stored_schedule(sd.schedule)
            _write(weights, folder / file.name, dtype, marks, _stored_layer(sd))
            _copy_mode(file, folder / file.name)
            os.replace(folder / file.name, file)
    elif layout == "diffusers":
        target = _folder(given_path(path), sd)
        with _beside(target) as folder:
            _write_folder(sd, folder / "new", dtype, trim_ids)
            with _one_at_a_time(target.parent):
                _put_in_place(folder, target)
    else:
        raise ValueError(f"layout is {layout!r}; expected 'diffusers' or 'compvis'.")


def _file(target: Path) -> Path:
    """Where a single file can be written; ValueError for a path where none can."""
    _check_no_device(target)
    if target.suffix != ".safetensors" or target.is_dir():
        raise ValueError(f"{target} should be a file whose name ends in .safetensors.")
    if (beside := target.with_suffix(".yaml")).exists():
        warnings.warn(f"{beside} lies there: `load` will read {target.name} as it says.", stacklevel=3)
    return target


def _folder(target: Path, sd: StableDiffusion) -> Path:
    """Where the folder of a model can be written, links followed; ValueError for a path where it cannot, and for a
    model that no folder holds."""
    _check_no_device(target)
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; a diffusers checkpoint is a folder.")
    if target.suffix in (".safetensors", ".ckpt", ".pt", ".bin") and not target.is_dir():
        raise ValueError(f"{target} would be a folder; layout='compvis' writes a single file, NAME.safetensors.")
    if _stored_schedule(sd.schedule):
        raise ValueError(
            "This model has a noise schedule of its own, which `load` takes from single files only: "
            "save it in layout 'compvis'."
        )
    target = Path(os.path.realpath(target))
    if target.is_symlink():
        raise ValueError(f"{target} is a loop of links; expected a folder.")
    if target in (here := Path.cwd(), *here.parents):
        raise ValueError(f"{target} is where this program runs, which cannot be replaced; choose a folder in it.")
    if target.is_dir() and (os.path.ismount(target) or not os.access(target.parent, os.W_OK)):
        raise ValueError(
            f"{target} is a mounted disk, or in a folder that is read only, and cannot be replaced; choose one in it, "
            f"as {target / 'model'}."
        )
    if sd.text_encoder_2 is None and (target / "text_encoder_2").exists():
        raise ValueError(
            f"{target} holds a text_encoder_2, which `load` would read and this model lacks; choose another folder."
        )
    return target


def _check_no_device(target: Path) -> None:
    if target.exists() and not target.is_file() and not target.is_dir():
        raise ValueError(f"{target} is a device or a pipe; expected a file or a folder.")


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A temporary folder on the target's own disk, gone afterwards."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", dir=target.parent))
    except OSError as error:
        raise ValueError(
            f"Nothing can be written to {target.parent} ({error.strerror}); choose another folder."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename `folder`/new to `target`, with what else the target has; if that fails, the target is what it was."""
    new, old = folder / "new", folder / "old"
    if not target.exists():
        os.rename(new, target)
        return

    for inside, folders, files in os.walk(target, onerror=_raise):
        part = Path(inside).relative_to(target)
        if (new / part).is_file():
            folders.clear()
            continue
        (new / part).mkdir(exist_ok=True)
        _copy_mode(target / part, new / part)
        # Shards of the weights that were there would be read in place of the new file.
        shards = {name for name in files if str(part) in STEMS and is_of_shards(name)}
        told = _READ_TOGETHER if str(part) in (".", "scheduler", *TOKENIZERS) else set()
        links = [name for name in folders if (target / part / name).is_symlink()]
        for name in (*files, *links):
            if (new / part / name).exists():
                _copy_mode(target / part / name, new / part / name)
            elif name not in shards | told:
                _link(target / part / name, new / part / name)
    try:
        os.rename(target, old)
        os.rename(new, target)
    except OSError as error:
        why = ", as no folder of a container's image can" if error.errno == errno.EXDEV else ""
        raise ValueError(f"{target} cannot be replaced ({error.strerror}){why}; choose another folder.") from error
    finally:
        if not target.exists():
            os.rename(old, target)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """No other process replaces anything in the folder meanwhile, where the system has such locks."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _copy_mode(old: Path, new: Path) -> None:
    """Who may read and write what was there may do so with what takes its place; whoever writes it may read it."""
    with suppress(OSError):
        new.chmod(stat.S_IMODE(old.stat().st_mode) | stat.S_IRUSR)


def _raise(error: OSError) -> None:
    raise error


def _link(source: Path, destination: Path) -> None:
    """The same file, or link, under another name; a copy, where the file system has no such names."""
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, destination, follow_symlinks=False)


def _stored_schedule(schedule: NoiseSchedule) -> Weights:
    return {} if schedule == NoiseSchedule() else {"alphas_cumprod": schedule.alphas_cumprod.float()}


def _stored_layer(sd: StableDiffusion) -> dict[str, str]:
    """Which layer is read of a text encoder as Stable Diffusion v1's, in the words of kohya's trainer."""
    text = sd.config.text
    if not may_skip_layers(sd.config) or (text.output_layer, text.final_norm) == (-1, True):
        return {}
    if not text.final_norm:
        raise ValueError("final_norm is False, for which no layout has a place; give it to load(..., config=...).")
    return {"modelspec.encoder_layer": str(-text.output_layer)}


def _stored_scale(sd: StableDiffusion, weights: Weights) -> Weights:
    """The scale of the latents, unless it is that of the kind of model that `load` would take these weights for."""
    usual = preset_of({name: tuple(weight.shape) for name, weight in weights.items()}).vae.scale
    if sd.vae.scale == usual:
        return {}
    return {"scale_factor": torch.tensor(sd.vae.scale, dtype=torch.float64, device="cpu")}


def _write(
    weights: Weights,
    path: Path,
    dtype: torch.dtype | None,
    tables: Weights | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights in `dtype`, and tables in their own."""
    ready: Weights = dict(tables or {})
    storages = set()
    for name, weight in weights.items():
        value = weight.detach().to("cpu", dtype if weight.is_floating_point() else None).contiguous()
        if not (value if value.element_size() > 1 else value.float()).isfinite().all():  # torch asks no float8
            raise ValueError(f"{name} has values that are NaN or infinite in {value.dtype}; nothing was saved.")
        storage = value.untyped_storage().data_ptr()
        ready[name] = value.clone() if storage in storages else value  # safetensors refuses tensors that share theirs
        storages.add(storage)
    write_tensors(path, ready, {"format": "pt", **(metadata or {})})


def _write_folder(sd: StableDiffusion, folder: Path, dtype: torch.dtype | None, trim_ids: Tensor | None) -> None:
    jsons = folder_jsons(sd.config)
    weights = _weights(sd)
    if trim_ids is not None:
        text = weights["text_encoder"]
        text.update(trim(text.pop(TABLE), trim_ids))
        jsons = {name: values for name, values in jsons.items() if name.endswith("/config.json")}
    for component in weights:
        (folder / component).mkdir(parents=True)
        _write(weights[component], folder / component / f"{STEMS[component][0]}.safetensors", dtype)
    if trim_ids is None:
        for name, (encoder, tokenizer) in zip(TOKENIZERS, sd.text_encoders, strict=False):
            _padding_with(encoder.config.pad_token, tokenizer).save_pretrained(folder / name)
    for name, values in jsons.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _padding_with(pad_token: int | None, tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """A copy that fills short texts with this token for whoever asks it to, as `_encoded` does for us."""
    if pad_token is None:
        return tokenizer
    padding = copy.deepcopy(tokenizer)
    padding.pad_token = tokenizer.convert_ids_to_tokens(pad_token)
    return padding


def _weights(sd: StableDiffusion) -> dict[str, Weights]:
    """Those of each component; ValueError unless they are those of its configuration, which `load` expects."""
    networks = {component: getattr(sd, component) for component in component_names(sd.config)}
    expected = expected_shapes(sd.config)
    for component, found in shapes(networks).items():
        wanted = expected[component]
        if differing := [name for name in found | wanted if found.get(name) != wanted.get(name)]:
            raise ValueError(
                f"The weights of {component} are not those of its configuration, which a file can hold: "
                f"{len(differing)} differ ({listed(differing)}). Save the network before it is compiled or changed."
            )
    return {component: network.state_dict() for component, network in networks.items()}


def compvis_weights(sd: StableDiffusion) -> Weights:
    """The state dict of a CompVis single file, by its names and in its shapes."""
    weights = _weights(sd)
    return {
        names.key(name): weight[:, :, None, None] if rank_may_differ(component, name) else weight
        for component, names in component_names(sd.config).items()
        for name, weight in names.join(weights[component]).items()
    }
