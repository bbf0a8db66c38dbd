"""Files that were made to hang, to take all memory, or to be read as something else: one line each, or the values."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor
from weights_samples import TINY

from ebama.models import VAEConfig
from ebama.weights import CheckpointError, inspect, load
from ebama.weights.files import archive
from ebama.weights.files.mapped import is_finite
from ebama.weights.files.opcodes import globals_of
from ebama.weights.files.pickle_safety import load_pickle
from ebama.weights.files.tensors import Entry, open_tensors
from ebama.weights.layouts.detect import file_kind
from ebama.weights.layouts.diffusers import _prediction, _unet_config, _vae_config
from ebama.weights.layouts.parametrisation import guessed_prediction
from ebama.weights.layouts.writing import folder_jsons


def line(path: Path) -> str:
    """What `load` and `inspect` say of a file that neither opens."""
    messages = set()
    for opener in (load, inspect):
        with pytest.raises(CheckpointError) as caught:
            opener(path)
        messages.add(str(caught.value))
    (message,) = messages
    assert message.isprintable()
    assert str(path) in message
    return message


# --- tuples whose hash takes forever ---


def nested(times: int) -> bytes:
    """The opcodes of a tuple that holds twice one that holds twice ..., which a memo keeps short."""
    twice = (b"r" + struct.pack("<I", i) + b"j" + struct.pack("<I", i) + b"\x86" for i in range(times))
    return b")" + b"".join(twice)


def as_zip(pickled: bytes, path: Path) -> None:
    torch.save({"a.b": torch.ones(3)}, path)
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as stored, zipfile.ZipFile(path, "w") as changed:
        for name in stored.namelist():
            changed.writestr(name, pickled if name.endswith("data.pkl") else stored.read(name))


def as_legacy(pickled: bytes, path: Path) -> None:
    torch.save({"a.b": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    file = io.BytesIO(path.read_bytes())
    for _ in range(3):  # magic number, version, system
        list(pickletools.genops(file))
    path.write_bytes(file.getvalue()[: file.tell()] + pickled + file.read())


@pytest.mark.parametrize("write", [as_zip, as_legacy])
@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}" + nested(60) + b"K\x01s.",
        b"\x80\x02}(K\x01K\x01" + nested(60) + b"K\x01u.",
        b"\x80\x02}X\x01\x00\x00\x00a" + nested(300) + b"s.",
        b"\x80\x02}" + nested(20) + b"K\x01s" + (b"j\x13\x00\x00\x00K\x01s" * 100) + b".",
    ],
    ids=["key", "keys", "value", "many keys"],
)
def test_tuples_without_end_are_not_hashed(write: Any, pickled: bytes, tmp_path: Path) -> None:
    write(pickled, tmp_path / "m.ckpt")
    assert "tuples within tuples" in line(tmp_path / "m.ckpt")


@pytest.mark.parametrize("opcode", [b"]", b"}", b"N", b"K\x01"])
def test_a_pickle_of_endless_opcodes_is_not_read(opcode: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebama.weights.files.opcodes._MOST_OPCODES", 1000)
    assert not [*globals_of(b"\x80\x02" + opcode * 998 + b".")]
    with pytest.raises(CheckpointError, match="more than 1,000 opcodes"):
        list(globals_of(b"\x80\x02" + opcode * 999 + b"."))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_ordinary_pickles_are_no_work(protocol: int) -> None:
    shared = (1, 2, ("a", 3))
    values = {shared: [shared] * 9, "numbers": list(range(2000)), (): {1}, ("b",) * 3: {"x": (shared, shared)}}
    assert all("builtins" in name or "__builtin__" in name for name in globals_of(pickle.dumps(values, protocol)))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_names_of_globals_are_those_that_the_unpickler_would_ask_for(protocol: int) -> None:
    values = {"a.b": defaultdict(list), "c": {"collections": defaultdict(int), "defaultdict": OrderedDict(d=1)}}
    names = set(globals_of(pickle.dumps(values, protocol)))
    assert {name.rpartition(".")[2] for name in names} - {"long", "int"} == {"defaultdict", "OrderedDict", "list"}
    assert {name.partition(".")[0] for name in names} <= {"collections", "builtins", "__builtin__"}


@pytest.mark.parametrize("change", [-4, -1, 4])
@pytest.mark.parametrize("record", ["data/0", "data/2"])
def test_a_record_has_the_size_of_its_storage(record: str, change: int, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3), "b": torch.ones(5)[1:], "c": torch.ones(7), "d": torch.ones(0)}, tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as archive, zipfile.ZipFile(tmp_path / "n.pt", "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            other.writestr(name, (content + b"1234")[: len(content) + change] if name.endswith(record) else content)
    assert load_pickle(tmp_path / "m.pt")
    assert "is damaged" in line(tmp_path / "n.pt")


# --- shapes that a pickle only claims ---

UNET = "model.diffusion_model."
TELLING = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"


@pytest.mark.parametrize("shape", [(10**15,), (10**8, 10**8), (0,), (320, 0)])
def test_a_weight_that_tells_is_only_read_in_its_size(shape: tuple[int, ...]) -> None:
    def read() -> Tensor:
        raise AssertionError("too much to read")

    assert guessed_prediction({TELLING: Entry(TELLING, shape, torch.float32, read)}) is None
    spread = torch.tensor([0.2, -0.2] * 160)
    guessed = guessed_prediction({TELLING: Entry(TELLING, (320,), torch.float32, lambda: spread)})
    assert guessed is not None
    assert guessed[0] == "v"


# --- archives ---


def test_a_record_is_checked_in_pieces_and_a_pickle_has_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.ckpt"
    torch.save({"a.b": torch.ones(3)}, path)
    with zipfile.ZipFile(path, "a") as stored:
        stored.writestr("m/junk.bin", bytes(5 << 20))
    sizes: list[int] = []
    read = zipfile.ZipExtFile.read

    def counted(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        content = read(self, n)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    assert open_tensors(path).entries["a.b"].read().tolist() == [1, 1, 1]
    assert max(sizes) == 1 << 20
    monkeypatch.setattr(archive, "_MOST_BYTES", 20)
    assert "holds a pickle of" in line(path)


# --- tensors of other kinds ---


@pytest.mark.parametrize("legacy", [False, True])
def test_views_that_turn_the_sign_are_read_as_their_values(legacy: bool, tmp_path: Path) -> None:
    turned = torch._neg_view(torch.arange(6.0).reshape(2, 3)).t()
    torch.save({"a.b": turned}, tmp_path / "m.ckpt", _use_new_zipfile_serialization=not legacy)
    read = open_tensors(tmp_path / "m.ckpt").entries["a.b"].read()
    assert not read.is_neg()
    assert read.tolist() == [[0, -3], [-1, -4], [-2, -5]]


def test_one_name_for_two_tensors_is_refused(tmp_path: Path) -> None:
    two: Mapping[str, Any] = {"state_dict": {"unet": {"a": torch.ones(1)}}, "unet.a": torch.zeros(1)}
    torch.save(two, tmp_path / "m.ckpt")
    assert "holds unet.a twice" in line(tmp_path / "m.ckpt")


def test_a_format_that_is_unknown_is_named_in_one_line(tmp_path: Path) -> None:
    content = save({"key": torch.zeros(2, dtype=torch.complex64)}).replace(b'"key"', b'"\\u001b[2J\\nkey"')
    header = struct.unpack("<Q", content[:8])[0] + len(b"\\u001b[2J\\n")
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", header) + content[8:])
    message = line(tmp_path / "m.safetensors")
    assert "\\x1b[2J\\nkey" in message
    assert "C64" in message


def test_errors_are_one_line_whatever_they_quote() -> None:
    assert str(CheckpointError("a\x1b[31m b\n\ufeffc é 猫")) == "a\\x1b[31m b\\n\\ufeffc é 猫"


def test_a_checkpoint_of_textual_inversion_is_a_checkpoint() -> None:
    shapes = {f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3), "embedding_manager.string_to_param_dict.*": (1, 768)}
    assert file_kind(shapes) is None
    assert file_kind({"string_to_param.*": (1, 768)}) == "a textual-inversion embedding"


# --- config.json and the scheduler ---

FILES = folder_jsons(TINY)


@pytest.mark.parametrize(
    "values",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
        {"_class_name": "DDIMScheduler"},
        {"_class_name": "IPNDMScheduler", "num_train_timesteps": 1000},
        {"_class_name": "ScoreSdeVeScheduler", "sigma_max": 1348.0},
    ],
    ids=lambda values: values["_class_name"],
)
def test_a_scheduler_without_betas_is_another_one(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"_class_name is '{values['_class_name'][:8]}.*without any betas"):
        _prediction(values)
    assert _prediction(FILES["scheduler/scheduler_config.json"]) == "epsilon"


@pytest.mark.parametrize(
    "name",
    [
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "EDMEulerScheduler",
        "EDMDPMSolverMultistepScheduler",
        "CosineDPMSolverMultistepScheduler",
    ],
)
def test_a_scheduler_of_other_noise_is_refused_though_it_has_betas(name: str) -> None:
    values = FILES["scheduler/scheduler_config.json"]
    with pytest.raises(ValueError, match=f"_class_name is '{name[:10]}.*add noise in another way"):
        _prediction({**values, "_class_name": name})
    for usual in ("EulerDiscreteScheduler", "LCMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        assert _prediction({**values, "_class_name": usual}) == "epsilon"


def test_a_scheduler_of_continuous_noise_is_refused() -> None:
    values = {**FILES["scheduler/scheduler_config.json"], "_class_name": "EulerDiscreteScheduler"}
    karras = {"timestep_type": "discrete", "sigma_min": 0.0292, "sigma_max": 14.6146, "use_karras_sigmas": True}
    assert _prediction({**values, **karras}) == "epsilon"
    with pytest.raises(ValueError, match="timestep_type is 'continuous'; Stable Diffusion v1 has"):
        _prediction({**values, **karras, "timestep_type": "continuous"})


def test_sigmas_of_flow_matching_are_refused() -> None:
    with pytest.raises(ValueError, match="use_flow_sigmas is True"):
        _prediction({**FILES["scheduler/scheduler_config.json"], "use_flow_sigmas": True})
    with pytest.raises(ValueError, match=r"trained_betas is \[0\.1, .*\.\.\.\]") as caught:
        _prediction({**FILES["scheduler/scheduler_config.json"], "trained_betas": [0.1] * 1000})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("attention_head_dim", 0, "heads is 0"),
        ("num_attention_heads", 0, "heads is 0"),
        ("block_out_channels", None, "block_out_channels is None; expected a list"),
        ("block_out_channels", [], r"block_out_channels is \[\]; expected a list"),
        ("block_out_channels", {"0": 8}, "block_out_channels is {'0': 8}; expected a list"),
        ("down_block_types", "CrossAttnDownBlock2D", "down_block_types is 'CrossAttnDownBlock2D'; expected a list"),
        ("down_block_types", [["a"]], r"down_block_types names \['a'\]; expected"),
        ("up_block_types", 5, "up_block_types is 5; expected a list"),
    ],
)
def test_what_is_no_list_is_named(key: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _unet_config({**FILES["unet/config.json"], key: value})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("block_out_channels", None, "block_out_channels is None; expected a list"),
        ("block_out_channels", 3, "block_out_channels is 3; expected a list"),
        ("down_block_types", 5, "down_block_types is 5; expected a list"),
        ("scaling_factor", float("inf"), "scale is inf; expected a positive number"),
    ],
)
def test_what_is_no_list_is_named_in_the_vae(key: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _vae_config({**FILES["vae/config.json"], key: value}, may_overflow=False)
    without = {name: v for name, v in FILES["vae/config.json"].items() if name != "down_block_types"}
    assert isinstance(_vae_config({**without, "up_block_types": None}, may_overflow=False), VAEConfig)


# --- devices and types ---


@pytest.mark.parametrize("device", ["meta", "gpu", None, "cpu:x", torch.device("meta")])
def test_a_device_that_is_none_is_named_before_anything_is_read(device: Any) -> None:
    with pytest.raises(ValueError, match=r"^device '.*' cannot be used here: [^\n]+$"):
        load("nowhere", device=device)


@pytest.mark.parametrize("dtype", ["float16", None, torch.float8_e4m3fn, torch.complex64, torch.bool])
def test_a_type_that_no_network_runs_in_is_named(dtype: Any) -> None:
    with pytest.raises(ValueError, match=f"dtype is {dtype!r}; expected a floating-point type"):
        load("nowhere", dtype=dtype)


def test_the_default_device_does_not_matter() -> None:
    with torch.device("meta"):
        assert is_finite(torch.ones(2, device="cpu"))
        assert not is_finite(torch.full((2,), torch.inf, device="cpu"))
