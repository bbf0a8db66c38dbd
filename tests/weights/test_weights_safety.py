"""Files that would run code are refused without running it, and files that are no checkpoints are named for what
they are."""

from __future__ import annotations

import argparse
import array
import builtins
import collections
import datetime
import decimal
import errno
import fractions
import gzip
import io
import json
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import types
import uuid
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import TINY_XL
from safetensors.torch import save, save_file
from weights_samples import (
    TINY,
    Call,
    Global,
    compvis_state,
    differing,
    lightning_extras,
    random_model,
    save_with_globals,
)

from ebama.weights import CheckpointError, inspect, load
from ebama.weights import save as save_folder
from ebama.weights.files.pickle_safety import pickle_globals
from ebama.weights.files.stand_ins import stand_in
from ebama.weights.files.tensors import open_tensors
from ebama.weights.layouts.detect import file_kind


def _attacks(marker: Path) -> dict[str, tuple[Call, str]]:
    """Pickles that create `marker` when they are loaded, with the global they go through."""
    return {
        "system": (Call(os.system, f"touch {marker}"), os.system.__module__ + ".system"),
        "eval": (Call(builtins.eval, f"open({str(marker)!r}, 'w').close()"), "eval"),
        "subprocess": (Call(subprocess.call, ["touch", str(marker)]), ".call"),
        "torch": (Call(torch.load, str(marker)), "torch.serialization.load"),
        "stand-in": (Call(Call(getattr, Global("pytorch_lightning", "core"), "run")), "getattr"),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("attack", ["system", "eval", "subprocess", "torch", "stand-in"])
def test_pickles_that_run_code_are_refused_without_running_it(tmp_path: Path, attack: str, legacy: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.ckpt"
    payload, name = _attacks(marker)[attack]
    save_with_globals({"state_dict": {"a": torch.zeros(2)}, **lightning_extras(), "x": payload}, path, legacy=legacy)
    with pytest.raises(CheckpointError) as caught:
        load(path, config=TINY)
    message = str(caught.value)
    assert not marker.exists()
    assert message.startswith(f"{path} is not safe to open")
    assert name in message
    assert ".safetensors" in message
    assert "weights_only" not in message
    assert "\n" not in message
    found = inspect(path)
    assert not marker.exists()
    assert not found.safe
    assert any(name in refused for refused in found.refused_globals)


def _leftovers() -> dict[str, object]:
    """What trainers keep beside the weights; omegaconf and Lightning are not installed, only named."""
    config = Call(
        Global("omegaconf.dictconfig", "DictConfig"),
        state={
            "_metadata": Call(
                Global("omegaconf.base", "ContainerMetadata"),
                state={"ref_type": Global("typing", "Any"), "object_type": dict, "flags": {}, "key": None},
            ),
            "_parent": None,
            "_content": {"lr": Call(Global("omegaconf.nodes", "AnyNode"), state={"_val": 1e-4, "_parent": None})},
        },
    )
    return {
        "set": {1, "a"},
        "frozenset": frozenset({2}),
        "defaultdict": collections.defaultdict(list, {"loss": [0.5]}),
        "defaultdict of dicts": collections.defaultdict(dict, {"a": {"b": 1}}),
        "deque": collections.deque([1.0, 2.0], maxlen=3),
        "counter": collections.Counter("aab"),
        "array": np.arange(6.0).reshape(2, 3),
        "array of objects": np.array(["a", None, 1], dtype=object),
        "structured array": np.zeros(2, dtype=[("x", "f4")]),
        "masked array": np.ma.masked_array([1, 2], [0, 1]),
        "scalars": [np.float32(1), np.int64(2), np.bool_(True), np.str_("a"), np.float64],
        "random states": [np.random.RandomState(0), np.random.default_rng(0), random.Random(0)],
        "paths": [Path("/a/b"), pathlib.PureWindowsPath("c")],
        "times": [datetime.datetime(2022, 1, 1, tzinfo=datetime.timezone.utc), datetime.timedelta(1)],
        "numbers": [uuid.UUID(int=3), decimal.Decimal("1.5"), fractions.Fraction(1, 3), 2**80, 1j],
        "arguments": argparse.Namespace(lr=1e-4, layers=[1, 2]),
        "namespace": types.SimpleNamespace(a=1),
        "versions": [torch.__version__, np.__version__],
        "bytes": [b"", b"abc", bytearray(b"a"), range(3), slice(1), ..., type(None)],
        "omegaconf": config,
        "dictionaries": [collections.UserDict({"a": 1}), collections.ChainMap({"a": 1}), collections.UserList([1])],
        "array of Python": array.array("d", [1.0]),
        "attributes": Call(Global("pytorch_lightning.utilities.parsing", "AttributeDict"), {"lr": 1}),
        "enum": {Call(Global("lightning.pytorch.trainer.states", "TrainerFn"), "fit"): 1},
        "optimizers": {"class": torch.optim.SGD, "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau},
        "history": Call(Global("mmengine.logging.history_buffer", "HistoryBuffer"), state={"_max_length": 100}),
        "loss scale": Call(Global("deepspeed.runtime.fp16.loss_scaler", "LossScaler"), state={"cur_scale": 1.0}),
        "arguments of transformers": Call(Global("transformers.training_args", "TrainingArguments"), state={"lr": 1}),
    }


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", _leftovers())
def test_leftovers_of_trainers_are_inert(tmp_path: Path, kind: str, legacy: bool) -> None:
    path, before = tmp_path / "m.ckpt", set(sys.modules)
    save_with_globals(
        {"state_dict": {"a.b": torch.ones(2)}, "hyper_parameters": _leftovers()[kind]}, path, legacy=legacy
    )
    opened = open_tensors(path)
    assert list(opened.entries) == ["a.b"]
    assert opened.entries["a.b"].read().tolist() == [1, 1]
    assert inspect(path).safe
    assert not {name for name in set(sys.modules) - before if name.startswith(("omegaconf", "pytorch_lightning"))}


def test_dictionaries_of_their_own_kind_are_filled(tmp_path: Path) -> None:
    class AttributeDict(dict):  # type: ignore[type-arg]
        pass

    AttributeDict.__module__, AttributeDict.__qualname__ = "pytorch_lightning.utilities.parsing", "AttributeDict"
    module = types.ModuleType(AttributeDict.__module__)
    module.AttributeDict = AttributeDict  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        patch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
        torch.save({"a": torch.zeros(1), "hyper_parameters": AttributeDict(parameterization="v")}, tmp_path / "m.ckpt")
    assert open_tensors(tmp_path / "m.ckpt").metadata == {"hyper_parameters.parameterization": "v"}


def test_settings_in_a_namespace_are_read(tmp_path: Path) -> None:
    for made in (argparse.Namespace, types.SimpleNamespace):
        torch.save({"a": torch.zeros(1), "args": made(prediction_type="v_prediction", lr=0.1)}, tmp_path / "m.ckpt")
        assert open_tensors(tmp_path / "m.ckpt").metadata == {"args.prediction_type": "v_prediction", "args.lr": "0.1"}


def _omegaconf(values: dict[str, object]) -> Call:
    """A DictConfig as it is pickled: values in nodes, which know what they are in."""
    content: dict[str, object] = {}
    config = Call(Global("omegaconf.dictconfig", "DictConfig"), state={"_content": content, "_parent": None})
    for name, value in values.items():
        node = Call(Global("omegaconf.nodes", "AnyNode"), state={"_val": value, "_metadata": {}})
        content[name] = _omegaconf(value) if isinstance(value, dict) else node
    return config


@pytest.mark.parametrize("legacy", [False, True])
def test_settings_in_configurations_of_others_are_read(tmp_path: Path, legacy: bool) -> None:
    settings: dict[str, object] = {"model": {"prediction_type": "v_prediction", "none": None}, "lr": 0.1}
    nested = Call(Global("ml_collections.config_dict.config_dict", "ConfigDict"), state={"_fields": settings["model"]})
    fields = {"model": nested, "lr": 0.1}
    for config in (
        _omegaconf(settings),
        Call(Global("ml_collections.config_dict.config_dict", "FrozenConfigDict"), state={"_fields": fields}),
    ):
        save_with_globals({"a": torch.zeros(1), "cfg": config}, tmp_path / "m.ckpt", legacy=legacy)
        found = open_tensors(tmp_path / "m.ckpt").metadata
        assert found == {"cfg.model.prediction_type": "v_prediction", "cfg.lr": "0.1"}
    for state in (None, 3, {"_content": "???"}, {}):
        odd = Call(Global("omegaconf.dictconfig", "DictConfig"), state=state)
        save_with_globals({"a": torch.zeros(1), "cfg": odd}, tmp_path / "m.ckpt", legacy=legacy)
        assert open_tensors(tmp_path / "m.ckpt").metadata == {}


def test_dictionaries_that_hold_themselves_are_read_once(tmp_path: Path) -> None:
    inside: dict[str, object] = {"x": torch.ones(1), "n": 3}
    holds: dict[str, object] = {f"k{i}": inside for i in range(1000)}
    inside |= {f"back{i}": holds for i in range(1000)}
    torch.save({**holds, "again": {"state_dict": inside}}, tmp_path / "m.ckpt")
    opened = open_tensors(tmp_path / "m.ckpt")
    assert (list(opened.entries), opened.metadata) == (["k0.x"], {"k0.n": "3"})


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "builtins.getattr",
        "builtins.open",
        "__builtin__.apply",
        "collections.abc.Callable",
        "functools.partial",
        "importlib.import_module",
        "numpy.load",
        "numpy.fromfile",
        "numpy.core.multiarray.fromfile",
        "operator.attrgetter",
        "os.system",
        "pathlib.os.system",
        "pickle.loads",
        "posix.system",
        "runpy.run_path",
        "torch.hub.load",
        "torch.load",
        "types.FunctionType",
        "typing.io",
        "uuid.os",
        "omegaconfx.y",
        "mytrainer.Config",
        "__main__.Config",
    ],
)
def test_only_what_a_rule_names_has_a_stand_in(tmp_path: Path, name: str) -> None:
    assert stand_in(name) is None
    module, _, attribute = name.rpartition(".")
    marker = tmp_path / "marker"
    save_with_globals({"a": torch.zeros(1), "x": Call(Global(module, attribute), str(marker))}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match=rf"asks for {name}, which is not part"):
        load(tmp_path / "m.ckpt")
    assert not marker.exists()


@pytest.mark.parametrize("payload", ["reduce", "state", "entries", "element", "as a key", "nested"])
@pytest.mark.parametrize("legacy", [False, True])
def test_code_inside_a_leftover_does_not_run(tmp_path: Path, payload: str, legacy: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.ckpt"
    code = _attacks(marker)["system"][0]
    namespace = Global("argparse", "Namespace")
    wrapped = {
        "reduce": Call(namespace, code),
        "state": Call(namespace, state={"a": code}),
        "entries": collections.defaultdict(list, {"a": code}),
        "element": collections.deque([code]),
        "as a key": {code: 1},
        "nested": Call(Global("omegaconf.dictconfig", "DictConfig"), Call(namespace, [code])),
    }[payload]
    save_with_globals({"state_dict": {"a": torch.zeros(1)}, "x": wrapped}, path, legacy=legacy)
    with pytest.raises(CheckpointError, match=r"is not safe to open: .*\.system, which is not part"):
        load(path)
    assert not inspect(path).safe
    assert not marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_the_attacks_are_real(tmp_path: Path, legacy: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.ckpt"
    save_with_globals({"x": _attacks(marker)["system"][0]}, path, legacy=legacy)
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_torch_has_the_last_word_if_the_scan_misses_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.ckpt"
    save_with_globals({"x": _attacks(marker)["subprocess"][0]}, path)
    monkeypatch.setattr("ebama.weights.files.pickle_safety.pickle_globals", lambda path: set())
    with pytest.raises(CheckpointError, match=r"evil\.ckpt could not be read .*Unsupported global") as caught:
        load(path, config=TINY)
    assert "safe_globals" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [0, 4, 5])
def test_other_protocols_than_torchs_usual_one_are_named(protocol: int, tmp_path: Path) -> None:
    for zipped in (True, False)[: 1 if protocol == 0 else 2]:  # legacy files of protocol 0 look like texts
        torch.save(
            {"a": torch.zeros(1)}, tmp_path / "m", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped
        )
        with pytest.raises(
            CheckpointError, match=r"m could not be read .* another protocol than torch\.save's usual 2"
        ):
            load(tmp_path / "m")


def test_bare_pickles_of_any_protocol_are_refused(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pkl"
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps(_attacks(marker)["system"][0], protocol=protocol))
        with pytest.raises(CheckpointError, match=r"evil\.pkl is not safe to open: .*\.system"):
            load(path, config=TINY)
        assert not marker.exists()
    path.write_bytes(pickle.dumps({"a": 1}, protocol=4))
    with pytest.raises(CheckpointError, match=r"evil\.pkl"):
        load(path, config=TINY)


@pytest.mark.slow
def test_folder_with_an_evil_component_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    model = random_model()
    for name in ("unet", "vae", "text_encoder"):
        (tmp_path / "m" / name).mkdir(parents=True)
        file = "pytorch_model.bin" if name == "text_encoder" else "diffusion_pytorch_model.bin"
        state: dict[str, object] = dict(getattr(model, name).state_dict())
        if name == "vae":
            state["x"] = _attacks(marker)["system"][0]
        torch.save(state, tmp_path / "m" / name / file)
    with pytest.raises(CheckpointError, match=r"vae.diffusion_pytorch_model\.bin is not safe"):
        load(tmp_path / "m", config=TINY)
    found = inspect(tmp_path / "m")
    assert not found.safe
    assert found.refused_globals == (os.system.__module__ + ".system",)
    assert not marker.exists()


def test_globals_are_listed_without_being_imported(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    for legacy in (False, True):
        save_with_globals({"state_dict": {"a": torch.zeros(1)}, **lightning_extras()}, path, legacy=legacy)
        assert pickle_globals(path) == {
            "_codecs.encode",
            "collections.OrderedDict",
            "numpy.core.multiarray.scalar",
            "numpy.dtype",
            "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
            "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
            "torch.FloatStorage",
            "torch._utils._rebuild_tensor_v2",
        }


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00(X", b"garbage"])
def test_archives_with_a_damaged_pickle_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    for use in (load, inspect):
        with pytest.raises(CheckpointError, match=r"m\.ckpt is damaged in its pickle"):
            use(path)  # type: ignore[operator]


def _with_attribute(tensor: torch.Tensor, name: str = "ds_id", value: object = 3) -> torch.Tensor:
    setattr(tensor, name, value)
    return tensor


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "made",
    [
        _with_attribute,
        lambda tensor: _with_attribute(torch.nn.Parameter(tensor)),
        lambda tensor: _with_attribute(torch.nn.Parameter(tensor, requires_grad=False), "spec", {"a": [0, None]}),
        torch.nn.Buffer,
        lambda tensor: _with_attribute(torch.nn.Buffer(tensor, persistent=False)),
        lambda tensor: _with_attribute(tensor, "detach"),  # in the way of what reads them
        lambda tensor: _with_attribute(torch.nn.Parameter(tensor), "untyped_storage", "x"),
    ],
    ids=["tensor", "parameter", "frozen parameter", "buffer", "buffer with more", "detach", "storage"],
)
def test_attributes_of_tensors_are_no_obstacle(
    tmp_path: Path, made: Callable[[torch.Tensor], torch.Tensor], legacy: bool
) -> None:
    path, weight = tmp_path / "m.ckpt", torch.arange(6.0).reshape(2, 3)
    torch.save({"a.b": made(weight.clone())}, path, _use_new_zipfile_serialization=not legacy)
    read = open_tensors(path).entries["a.b"].read()
    assert type(read) is torch.Tensor
    assert not read.requires_grad
    assert not vars(read)
    assert torch.equal(read, weight)
    assert open_tensors(path, meta=True).entries["a.b"].shape == (2, 3)


def test_tensors_of_other_classes_are_refused(tmp_path: Path) -> None:
    class Tagged(torch.Tensor):
        pass

    Tagged.__qualname__, globals()["Tagged"] = "Tagged", Tagged
    torch.save({"a": torch.ones(2).as_subclass(Tagged)}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match=rf"asks for {__name__}\.Tagged, which is not part of"):
        open_tensors(tmp_path / "m.ckpt")


def test_encrypted_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    torch.save({"a": torch.zeros(2)}, path)
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(signature, at + 4)
    path.write_bytes(content)
    for use in (load, inspect):
        with pytest.raises(CheckpointError, match=r"m\.ckpt is a damaged zip archive .*encrypted"):
            use(path)  # type: ignore[operator]


@pytest.mark.slow
def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    save_folder(random_model(), tmp_path / "m")
    (tmp_path / "m" / "unet" / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"config\.json is not readable JSON"):
        load(tmp_path / "m")
    (tmp_path / "m" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    for text in ("[" * 100_000, '{"weight_map": {"a": "' + "x" * 5000 + '"}}'):
        (tmp_path / "m" / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"index\.json (is not an index|names the shard)"):
            load(tmp_path / "m", config=TINY)


@pytest.mark.slow
def test_names_of_weights_do_not_steer_the_terminal(tmp_path: Path) -> None:
    name = "model.diffusion_model.x\n\x1b[2Jcomplete: can be loaded"
    torch.save({"state_dict": {**compvis_state(random_model()), name: torch.zeros(1)}}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "m.ckpt", config=TINY)
    found = str(inspect(tmp_path / "m.ckpt"))
    assert "\\x1b[2Jcomplete" in str(caught.value)
    assert "\x1b" not in str(caught.value) + found
    assert "\ncomplete" not in found


def test_compressed_archives_are_not_read_as_noise(tmp_path: Path) -> None:
    path, packed = tmp_path / "m.ckpt", tmp_path / "packed.ckpt"
    torch.save(compvis_state(random_model()), path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    with pytest.raises(CheckpointError, match=r"packed\.ckpt was compressed"):
        load(packed, config=TINY)


def test_restored_archives_are_read_right(tmp_path: Path) -> None:
    model, path, again = random_model(), tmp_path / "m.ckpt", tmp_path / "again.ckpt"
    torch.save(compvis_state(model), path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(again, "w", zipfile.ZIP_STORED) as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    assert differing(model, load(again, config=TINY)) == []


def test_an_attribute_stands_before_no_method_of_a_dictionary(tmp_path: Path) -> None:
    class Odd:
        def __reduce__(self) -> tuple[Any, ...]:
            attributes = dict.fromkeys(("items", "keys", "get", "values"), "not this")
            return collections.OrderedDict, (), attributes, None, iter({"weight": torch.arange(3.0), "step": 7}.items())

    torch.save({"state_dict": Odd()}, tmp_path / "m.ckpt")
    opened = open_tensors(tmp_path / "m.ckpt")
    assert torch.equal(opened.entries["weight"].read(), torch.arange(3.0))
    assert opened.metadata == {"step": "7"}


@pytest.mark.slow
def test_keys_of_any_length_are_read_in_no_time_and_shown_short(tmp_path: Path) -> None:
    for key in ("model." * 50_000 + "x", "ema." * 50_000, "x" * 1_000_000):
        save_file({key: torch.zeros(1)}, tmp_path / "m.safetensors")
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path / "m.safetensors", config=TINY)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path: Path, version: int) -> None:
    length, path = version * 256 + 0x80, tmp_path / "m.safetensors"
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    path.write_bytes(struct.pack("<Q", length) + header.ljust(length).encode() + bytes(4))
    assert open_tensors(path).container == "safetensors"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("scheduler/scheduler_config.json", "model_index.json", "tokenizer/tokenizer_config.json"),
        *("tokenizer/special_tokens_map.json", "tokenizer_2/tokenizer.json"),
    ],
)
def test_a_link_that_leads_nowhere_is_not_passed_over(tmp_path: Path, name: str) -> None:
    save_folder(random_model(TINY_XL), tmp_path / "m")
    (tmp_path / "m" / name).unlink(missing_ok=True)
    (tmp_path / "m" / name).symlink_to("../../blobs/nowhere")
    with pytest.raises(CheckpointError, match=rf"{name} is a link to \S+nowhere, which is not there"):
        load(tmp_path / "m")


@pytest.mark.parametrize("name", ["scheduler", "tokenizer", "text_encoder_2", "tokenizer_2"])
@pytest.mark.parametrize("instead", ["a link", "a loop", "a text"])
def test_what_stands_in_a_folders_place_is_named(tmp_path: Path, name: str, instead: str) -> None:
    folder = tmp_path / "m"
    for part in ("unet", "vae", "text_encoder"):
        (folder / part).mkdir(parents=True)
    if instead == "a text":
        (folder / name).write_text(f"../blobs/{name}")
    else:
        (folder / name).symlink_to(tmp_path / "nowhere" if instead == "a link" else folder / name)
    with pytest.raises(CheckpointError, match=rf"{name} is no folder, nor a link to one that is there"):
        load(folder)


@pytest.mark.parametrize("left", ["", "scheduler_config.json.incomplete", "config.json"])
def test_a_scheduler_without_its_file_is_named(tmp_path: Path, left: str) -> None:
    for part in ("unet", "vae", "text_encoder", "scheduler"):
        (tmp_path / part).mkdir()
    if left:
        (tmp_path / "scheduler" / left).write_text("{}")
    with pytest.raises(CheckpointError, match=r"scheduler holds no scheduler_config\.json, which says what"):
        load(tmp_path)


def test_nor_is_a_link_beside_a_file(tmp_path: Path) -> None:
    save_file(compvis_state(random_model()), tmp_path / "m.safetensors")
    (tmp_path / "m.yaml").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match=r"m\.yaml is a link to nowhere, which is not there"):
        load(tmp_path / "m.safetensors", config=TINY)


def test_a_file_whose_name_is_no_text_is_named(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff.safetensors"))
    path.write_bytes(_SAFETENSORS)
    with pytest.raises(CheckpointError, match=r"m\\udcff\.safetensors has letters in its name that are no UTF-8"):
        open_tensors(path)


def test_archives_without_checksums_are_read(tmp_path: Path) -> None:
    """As under `torch.serialization.set_crc32_options(False)`, which writes zeros in their place."""
    state, path = {"weight": torch.arange(6.0)}, tmp_path / "m.ckpt"
    torch.save({"state_dict": state}, path)
    with zipfile.ZipFile(path) as archive:
        checksums = {record.CRC for record in archive.infolist()}
    content = path.read_bytes()
    for checksum in checksums:
        content = content.replace(checksum.to_bytes(4, "little"), bytes(4))
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert not any(record.CRC for record in archive.infolist())
    assert torch.equal(open_tensors(path).entries["weight"].read(), state["weight"])


def _zip(names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _saved(obj: object, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


_WEIGHTS = {"a": torch.arange(64.0)}
_SAFETENSORS, _ZIP, _LEGACY = save(_WEIGHTS), _saved(_WEIGHTS), _saved(_WEIGHTS, legacy=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello\n", "is a text file"),
        ("# Modèle\n".encode() * 100, "is not a file of weights|is a text file"),
        (b"\n <!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"GGUF\x03\0\0\0" + bytes(64), "is a GGUF file, whose weights are quantised"),
        (bytes(range(200, 256)) * 10, "is not a file of weights"),
        *(
            (begin + bytes(600), r"is an archive \(unpack it")
            for begin in (gzip.compress(b""), b"7z\xbc\xaf'\x1c", b"Rar!")
        ),
        (bytes(257) + b"ustar" + bytes(250), r"is an archive \(unpack it"),
        (_SAFETENSORS[:-1], "damaged or cut-off safetensors file"),
        (_SAFETENSORS[:20], "cut-off safetensors file"),
        (_ZIP[:-30], "cut-off or damaged zip archive"),
        (_ZIP[:100], "cut-off or damaged zip archive"),
        # The 64-bit directory's locator counts a second disk: zipfile raises where it is only asked what this is.
        (_ZIP[:-22] + struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2) + _ZIP[-22:], "cut-off or damaged zip archive"),
        (_LEGACY[:-10], "could not be read"),
        (_LEGACY[:60], "could not be read"),
        (_zip({"readme.txt": b"hi"}), "a zip archive, but not one that torch.save wrote"),
        (_saved([1, 2]), "holds a list; expected a dictionary"),
        (_saved({"epoch": 3}), "is a file without any weights"),
        (_saved({"a": torch.zeros(2, 2).to_sparse()}), r"asks for .*_rebuild_sparse_tensor"),
        (save({"a": torch.zeros(1)}), "is a file of other weights"),
        (save({"b.lora_up.weight": torch.zeros(1)}), "is a LoRA"),
        (save({"emb_params": torch.zeros(1)}), "is a textual-inversion embedding"),
        (_saved({"string_to_param": {"*": torch.zeros(2, 768)}}), "is a textual-inversion embedding"),
        (
            _saved({"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.zeros(2, 768))})}),
            "is a textual-inversion embedding",
        ),
        (_saved({"<crown>": torch.zeros(768)}), "is a textual-inversion embedding"),
        (save({"style.v2": torch.zeros(1, 768)}), "is a textual-inversion embedding"),
        (save({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}), "is a textual-inversion embedding"),
        (_LEGACY + b"more", "is damaged: 4 bytes are left"),
    ],
)
def test_files_that_are_no_checkpoints_are_named_for_what_they_are(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "strange.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_torchscript_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.raises(CheckpointError, match=r"script\.pt") as caught:
        load(path)
    assert "weights_only=False" not in str(caught.value)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    (tmp_path / "endless.ckpt").symlink_to("/dev/zero")
    for use in (load, inspect):
        for name in ("pipe.ckpt", "endless.ckpt"):
            with pytest.raises(CheckpointError, match=rf"{name} is a device or a pipe"):
                use(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors.index.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_nothing_of_a_folder_is_waited_for(tmp_path: Path, name: str) -> None:
    folder = _folder(tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    for use in (load, inspect):
        with pytest.raises(CheckpointError, match=rf"{name} is a device or a pipe"):
            use(folder)


@pytest.mark.parametrize(
    "name",
    ["m.ckpt", "m/unet/config.json", "m/vae/diffusion_pytorch_model.safetensors", "m/text_encoder/model.safetensors"],
)
def test_links_that_lead_nowhere_are_named(tmp_path: Path, name: str) -> None:
    _folder(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to("../../../blobs/4567")
    opened = tmp_path / name.partition("/")[0]
    for use in (partial(load, config=None if name.endswith("json") else TINY), inspect):
        with pytest.raises(CheckpointError, match=rf"{name} is a link to .*blobs.4567, which is not there"):
            use(opened)


def _folder(tmp_path: Path) -> Path:
    """A folder whose files are there, though they hold nothing."""
    for component, file in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (tmp_path / "m" / component).mkdir(parents=True)
        (tmp_path / "m" / component / "config.json").write_text("{}")
        (tmp_path / "m" / component / f"{file}.safetensors").write_bytes(_SAFETENSORS)
    return tmp_path / "m"


def test_a_download_that_goes_on_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    (tmp_path / "m.safetensors.aria2").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"m\.safetensors is not downloaded yet: .*; let aria2 finish, or delete"):
        open_tensors(path)


def test_paths_that_hold_no_checkpoint_get_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no file or folder .*nowhere\.ckpt\.$"):
        load(tmp_path / "nowhere.ckpt")
    with pytest.raises(CheckpointError, match=r"hf download CompVis/stable-diffusion-v1-4 --local-dir"):
        load("CompVis/stable-diffusion-v1-4")
    for name in ("stabilityai/stable-diffusion-xl-base-1.0", "SG161222/Realistic_Vision_V5.1_noVAE"):
        with pytest.raises(CheckpointError, match=f"hf download {name} --local-dir"):
            load(name)
    with pytest.raises(CheckpointError, match=r"Addresses are not opened: fetch it first"):
        load("https://huggingface.co/a/b/m.safetensors")
    with pytest.raises(CheckpointError, match=r"There is no file or folder ~/sd-v1-4\.$"):
        load("~/sd-v1-4")
    with pytest.raises(CheckpointError, match="is an empty folder"):
        load(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="without unet/, vae/, text_encoder/"):
        load(tmp_path)
    save_file(_WEIGHTS, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"such as model\.safetensors in it"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("components", "index", "says"),
    [
        (["transformer", "vae", "text_encoder"], "StableDiffusion3Pipeline", "diffusers' StableDiffusion3Pipeline"),
        (["transformer", "vae", "text_encoder"], "FluxPipeline", "diffusers' FluxPipeline"),
        (["transformer", "vae"], None, "diffusers' PixArtTransformer2DModel"),
        (["unet", "movq"], "KandinskyV22Pipeline", "diffusers' KandinskyV22Pipeline"),
        (["unet", "movq"], None, "a Kandinsky model"),
        (["prior", "text_encoder"], ["x"], "a prior (of Kandinsky or the like)"),
        (["transformer"], "x" * 9999, "diffusers' PixArtTransformer2DModel"),
        (["unet", "image_encoder", "vae"], "StableVideoDiffusionPipeline", "diffusers' StableVideoDiffusionPipeline"),
        (
            ["decoder", "vqgan", "text_encoder"],
            "StableCascadeDecoderPipeline",
            "diffusers' StableCascadeDecoderPipeline",
        ),
        (["unet", "text_encoder"], "IFPipeline", "diffusers' IFPipeline"),
    ],
)
def test_folders_of_other_models_are_refused_by_name(
    components: list[str], index: object, says: str, tmp_path: Path
) -> None:
    for name in components:
        (tmp_path / name).mkdir()
    if "transformer" in components:
        (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "PixArtTransformer2DModel"}')
    if index is not None:
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": index}))
    for read in (load, inspect):
        with pytest.raises(CheckpointError) as caught:
            read(tmp_path)
        assert str(caught.value) == f"{tmp_path} is a folder of {says}; expected Stable Diffusion v1, 2 or XL."


def test_a_folder_of_stable_diffusion_is_told_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(CheckpointError, match="is a folder without unet/, text_encoder/"):
        load(tmp_path)


def test_a_component_is_told_what_it_is_of(tmp_path: Path) -> None:
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"is one component of a diffusers folder; give the folder that holds"):
        load(tmp_path)


def test_what_a_trainer_writes_beside_its_states_is_told_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "optimizer.bin").write_bytes(b"x")
    for read in (load, inspect):
        with pytest.raises(CheckpointError, match=r"put this unet/ into the folder of the model that it was trained"):
            read(tmp_path)


@pytest.mark.parametrize("config", ["x", 3, {}, [], "SD_V1"])
def test_a_configuration_is_one_of_ours(config: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config is .*; expected one of ebama\.models, as SD_V1, or None"):
        load(tmp_path, config=config)  # type: ignore[arg-type]
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    (snapshot / "unet").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=str(snapshot)):
        load(tmp_path / "models--a--b")
    with pytest.raises(CheckpointError, match="without vae/, text_encoder/"):
        load(snapshot)
    for name in ("vae", "text_encoder"):
        (snapshot / name).mkdir()
    with pytest.raises(CheckpointError, match=r"unet.config\.json is missing"):
        load(snapshot)
    with pytest.raises(CheckpointError, match=r"unet holds no weights; expected diffusion_pytorch_model\.safetensors"):
        load(snapshot, config=TINY)


def _sd_v1(**changes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
        "cond_stage_model.transformer.text_model.final_layer_norm.bias": (768,),
    }
    shapes.update({next(key for key in shapes if part in key): shape for part, shape in changes.items()})
    return shapes


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        (_sd_v1(input_blocks=(320, 9, 3, 3)), "an inpainting model"),
        (_sd_v1(input_blocks=(320, 5, 3, 3)), "a depth-guided model"),
        (_sd_v1(input_blocks=(320, 7, 3, 3)), "an upscaling model"),
        (_sd_v1(input_blocks=(320, 8, 3, 3)), "an image-editing"),
        (_sd_v1(input_blocks=(320, 9, 3, 3), attn2=(320, 1024)), "an inpainting model"),
        (_sd_v1(input_blocks=(320, 5, 3, 3), attn2=(320, 1024)), "a depth-guided model"),
        (_sd_v1(input_blocks=(320, 7, 3, 3), attn2=(320, 1024)), "an upscaling model"),
        (_sd_v1(input_blocks=(256, 7, 3, 3), attn2=(512, 1024)), "an upscaling model"),
        (_sd_v1(input_blocks=(320, 9, 3, 3), attn2=(320, 2048)), "an inpainting model"),
        (_sd_v1(input_blocks=(384, 4, 3, 3), attn2=(320, 1280)), "a Stable Diffusion XL refiner"),
        ({**_sd_v1(attn2=(320, 1024)), "model.diffusion_model.label_emb.0.0.weight": (1, 1)}, "an unCLIP model"),
        (_sd_v1(attn2=(320, 1024)), None),
        ({**_sd_v1(attn2=(320, 2048)), "model.diffusion_model.label_emb.0.0.weight": (1, 1)}, None),
        ({"model.diffusion_model.joint_blocks.0.x": (1,)}, "transformer-based"),
        ({"double_blocks.0.img_attn.qkv.weight": (3, 3), "img_in.weight": (3, 3)}, "transformer-based"),
        ({"single_transformer_blocks.0.a.weight": (1,), "transformer_blocks.0.norm1_context.b": (1,)}, "transformer-"),
        ({"blocks.0.cross_attn.q_linear.weight": (3, 3), "y_embedder.y_embedding": (3, 3)}, "transformer-based"),
        ({"adaln_single.linear.weight": (3, 3)}, "transformer-based"),
        ({"model.double_layers.0.attn.w1q.weight": (3, 3)}, "transformer-based"),
        ({"model.diffusion_model.clip_txt_pooled_mapper.weight": (3, 3)}, "a Stable Cascade model"),
        ({"down_blocks.0.0.channelwise.0.weight": (3, 3), "effnet_mapper.0.weight": (3, 3)}, "a Stable Cascade model"),
        ({"down_blocks.0.a.weight": (1,), "add_embedding.image_proj.weight": (3, 3)}, "a Kandinsky model"),
        ({"prd_embedding": (1, 1, 3), "proj_in.weight": (3, 3)}, "a Kandinsky model"),
        ({"decoder.mid_block.attentions.0.spatial_norm.conv_y.weight": (3,)}, "a Kandinsky model"),
        ({"down_blocks.0.a.weight": (1,), "add_embedding.pool.k_proj.weight": (3, 3)}, "a DeepFloyd IF model"),
        ({**_sd_v1(), "model.diffusion_model.input_blocks.1.1.time_stack.0.a": (1,)}, "a video model"),
        ({**_sd_v1(), "model.diffusion_model.input_blocks.1.1.fuser.alpha_attn": ()}, "a GLIGEN model"),
        ({"cond_stage_model.transformer.attn_layers.layers.0.a.weight": (1,)}, "before Stable Diffusion"),
        ({"control_model.zero_convs.0.0.weight": (320, 320, 1, 1)}, "a ControlNet"),
        ({"lora_unet_down_blocks_0.lora_up.weight": (1, 1)}, "a LoRA"),
        ({"base_model.model.down.lora_A.weight": (1, 1)}, "a LoRA"),
        ({"lora_unet_a.lora_up.weight": (1, 1), "lora_unet_a.dora_scale": (1, 1)}, "a DoRA"),
        ({"base_model.model.a.lora_magnitude_vector": (1,)}, "a DoRA"),
        ({"lora_unet_a.hada_w1_a": (1, 1)}, "a LoHa"),
        ({"lora_unet_a.hada_t1": (1, 1, 3, 3)}, "a LoHa"),
        ({"lora_unet_a.lokr_w2": (1, 1)}, "a LoKr"),
        ({"lora_unet_a.lokr_w1_b": (1, 1)}, "a LoKr"),
        ({"unet.down_blocks.0.oft_blocks": (4, 8, 8)}, "an OFT"),
        ({"oft_unet_a.alpha": (1,)}, "an OFT"),
        ({"base_model.model.a.oft_R.weight": (4, 8, 8)}, "an OFT"),
        ({"lora_unet_a.boft_blocks": (1, 1)}, "an OFT"),
        ({"lora_unet_a_to_k.weight": (1, 320), "lora_unet_a_to_k.on_input": (1,)}, "an IA3"),
        ({"base_model.model.a.ia3_l": (1, 1)}, "an IA3"),
        ({"lora_unet_a.diff": (320, 320)}, "a full difference"),
        ({"lora_unet_a.diff_b": (320,)}, "a full difference"),
        ({"lora_unet_a.w_norm": (1,)}, "an adapter"),
        ({"lycoris_unet_a.a1.weight": (1, 1)}, "an adapter"),
        ({"ip_adapter.1.to_k_ip.weight": (1, 1), "image_proj.proj.weight": (1, 1)}, "an IP-Adapter"),
        ({"768.0.linear.0.weight": (1, 1)}, "a hypernetwork"),
        ({"down_blocks.0.motion_modules.0.x.weight": (1,)}, "a motion module"),
        ({"adapter.body.0.block1.weight": (1, 1)}, "a T2I-Adapter"),
        ({"encoder.down.0.block.0.conv1.weight": (128, 128, 3, 3)}, "a VAE alone"),
        ({"first_stage_model.encoder.down.0.block.0.conv1.weight": (128, 128, 3, 3)}, "a VAE alone"),
        ({"down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3)}, "one component of a diffusers folder"),
        (_sd_v1(), None),
    ],
)
def test_other_models_are_told_by_their_shapes(shapes: dict[str, tuple[int, ...]], kind: str | None) -> None:
    found = file_kind(shapes)
    assert (found is None) if kind is None else (found is not None and kind in found)


@pytest.mark.parametrize("open_it", [load, inspect])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        (b"m.ckpt", r"path is b'm\.ckpt'; expected a file"),
        (3, "path is 3; expected a file"),
        (True, "path is True; expected a file"),
        (["m.ckpt"], r"path is \['m\.ckpt'\]; expected a file"),
        ("", "path is ''; expected a file"),
        ("a" * 5000, r"^a{300}\.\.\. cannot be opened: File name too long"),
        ("/".join(["b" * 200] * 100), r"^[b/]{300}\.\.\. cannot be opened: File name too long"),
        ("a\0b", r"There is no file or folder a\\x00b"),
        ("/dev/null", "/dev/null is a device or a pipe"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_path_is_named(open_it: Callable[[Any], object], path: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_it(path)


def test_a_closed_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    for open_it in (load, inspect):
        with pytest.raises(CheckpointError, match=r"m\.ckpt cannot be opened: Permission denied"):
            open_it(tmp_path / "m.ckpt")


def test_loops_of_links_and_whole_pickles_of_other_objects(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    torch.save(collections.ChainMap({"a": torch.ones(1)}), tmp_path / "chain.ckpt")
    for name, message in (("loop", "is a link to loop"), ("chain.ckpt", "holds an object of another program")):
        for open_it in (load, inspect):
            with pytest.raises(CheckpointError, match=message):
                open_it(tmp_path / name)
