"""What a single file says of its training: what it predicts and another noise schedule are followed, else refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import TINY_V2, TINY_XL
from safetensors.torch import load_file, save_file
from torch import Tensor
from weights_samples import TINY, compvis_state, random_model

from ebama import Pipeline
from ebama.models import StableDiffusionConfig
from ebama.samplers import DDIM, NoiseSchedule
from ebama.weights import CheckpointError, inspect, load, save
from ebama.weights.checkpoint import open_checkpoint
from ebama.weights.files.tensors import open_tensors
from ebama.weights.layouts.parametrisation import stated_prediction, stated_text

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return compvis_state(random_model())


@pytest.fixture(scope="module")
def some(state: State) -> State:
    """A weight of each component, without the schedule: what a file says is read before its weights are counted."""
    components = (
        "model.diffusion_model.out",
        "first_stage_model.quant_conv",
        "cond_stage_model.transformer.text_model.f",
    )
    return {key: weight for key, weight in state.items() if key.startswith(components)}


def _schedule(path: Path) -> NoiseSchedule:
    return open_checkpoint(path, TINY).schedule


def _predicts_v(path: Path, where: str) -> None:
    opened = open_checkpoint(path, TINY)
    assert opened.config.prediction == "v"
    assert opened.notes[-1].startswith("predicts v: ")
    assert where in opened.notes[-1]
    assert opened.notes[-1] in str(inspect(path))
    assert open_checkpoint(path, TINY, prediction="epsilon").config.prediction == "epsilon"


def _refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path, config=TINY)
    found = inspect(path)
    assert not found.complete
    message = str(caught.value)
    assert found.kind in message
    assert "v-prediction" in message
    assert "\n" not in message
    return message


# --- prediction ---


@pytest.mark.slow
@pytest.mark.parametrize("key", ["v_pred", "ztsnr", "edm_mean", "edm_vpred.sigma_max", "model.v_pred"])
@pytest.mark.parametrize("pickled", [False, True])
def test_keys_that_mark_another_prediction(some: State, tmp_path: Path, key: str, pickled: bool) -> None:
    marked, path = {**some, key: torch.tensor([])}, tmp_path / "m.ckpt"
    torch.save({"state_dict": marked}, path) if pickled else save_file(marked, path)
    if "v_pred" in key.split("."):
        _predicts_v(path, f"its key {key} says so")
        marked["ztsnr"], key = torch.tensor([]), "ztsnr"
        torch.save({"state_dict": marked}, path) if pickled else save_file(marked, path)
    assert f"(its key {key} says so)" in _refusal(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"modelspec.prediction_type": "v"}, "modelspec.prediction_type is 'v'"),
        ({"modelspec.predict_key": "v"}, "modelspec.predict_key is 'v'"),
        ({"prediction_type": "v_prediction"}, "prediction_type is 'v_prediction'"),
        ({"prediction_type": "sample"}, "prediction_type is 'sample'"),
        ({"ss_v_parameterization": "True"}, "ss_v_parameterization is 'True'"),
        ({"ss_zero_terminal_snr": "True"}, "ss_zero_terminal_snr is 'True'"),
        ({"config": json.dumps({"model": {"params": {"parameterization": "v"}}})}, "parameterization is 'v'"),
        ({"v_pred": "1"}, "v_pred is '1'"),
        ({"modelspec.prediction_type": "v-prediction"}, "is 'v-prediction'"),
        ({"prediction_type": "vpred"}, "is 'vpred'"),
        ({"prediction_type": " V Prediction\n"}, "is ' V Prediction"),
        ({"modelspec.predict_key": "v_parameterization"}, "is 'v_parameterization'"),
        ({"prediction_type": "velocity-prediction"}, "is 'velocity-prediction'"),
        ({"prediction_type": "v-sample"}, "is 'v-sample'"),
    ],
)
def test_metadata_that_names_another_prediction(
    some: State, tmp_path: Path, metadata: dict[str, str], named: str
) -> None:
    save_file(some, tmp_path / "m.safetensors", metadata)
    if "sample" in named or "snr" in named:
        assert named in _refusal(tmp_path / "m.safetensors")
    else:
        _predicts_v(tmp_path / "m.safetensors", named)


def test_what_names_it_does_not_steer_the_terminal(some: State, tmp_path: Path) -> None:
    for mark in ("v_pred", "ztsnr"):
        save_file(some, tmp_path / "m.safetensors", {f"\x1b[2J\n.{mark}": "\x1b[2J"})
        save_file({**some, f"\x1b[2J.{mark}": torch.zeros(1)}, tmp_path / "k.safetensors")
        for file in (tmp_path / "m.safetensors", tmp_path / "k.safetensors"):
            said = _refusal(file) if mark == "ztsnr" else open_checkpoint(file, TINY).notes[-1]
            assert "\\x1b[2J" in said
            assert "\x1b" not in said + str(inspect(file))


@pytest.mark.parametrize(
    "metadata",
    [
        {"modelspec.prediction_type": "epsilon", "modelspec.architecture": "stable-diffusion-v1"},
        {"modelspec.predict_key": "Epsilon", "ss_v_parameterization": "False", "ss_zero_terminal_snr": "False"},
        {"parameterization": "eps", "config": json.dumps({"prediction_type": None, "v_pred": False})},
        {"modelspec.prediction_type": "eps-pred", "prediction_type": "Epsilon prediction", "predict_key": "noise_pred"},
        {"modelspec.predict_key": "epsilon", "prompt": json.dumps({"7": {"inputs": {"prediction_type": "v"}}})},
        {
            "ss_v_parameterization": "False",
            "parameterization": "eps",
            "sd_merge_models": json.dumps({"a": {"v_pred": 1}}),
        },
        {"modelspec.prediction_type": "epsilon", "workflow": json.dumps({"ztsnr": True})},
        {"modelspec.description": "not v_pred, whatever the title says", "config": "{" * 100_000},
        {"format": "pt"},
    ],
)
def test_metadata_that_names_the_noise_is_no_obstacle(some: State, tmp_path: Path, metadata: dict[str, str]) -> None:
    save_file(some, tmp_path / "m.safetensors", metadata)
    assert open_checkpoint(tmp_path / "m.safetensors", TINY).config == TINY


@pytest.mark.slow
@pytest.mark.parametrize(
    "beside",
    [
        {"hyper_parameters": {"parameterization": "v"}},
        {"config": {"model": {"params": {"parameterization": "v"}}}},
        {"v_pred": True},
        {"noise_scheduler": {"prediction_type": "v_prediction"}},
    ],
)
def test_settings_in_a_pickle_that_name_another_prediction(some: State, tmp_path: Path, beside: dict[str, Any]) -> None:
    torch.save({**beside, "state_dict": some}, tmp_path / "m.ckpt")
    _predicts_v(tmp_path / "m.ckpt", " is " if "v_pred" not in beside else "v_pred is 'True'")


@pytest.mark.parametrize(
    "line",
    [
        '    parameterization: "v"',
        "    other: 1\nparameterization: v",
        "    parameterization: !!str v",
        "    other: &it v\n    parameterization: *it",
        "    ? parameterization\n    : v",
        "    it: {denoiser: {scaling_config: {target: sgm.modules.diffusionmodules.denoiser_scaling.VScaling}}}",
        "  prediction_type: 'v_prediction'",
        "    {params: {parameterization: v}}",
        '    {"linear_start": 0.0001, "parameterization": "v", timesteps: 1000}',
        "    params: {scale_factor: 0.18215,\n     prediction_type: v_prediction}  # {parameterization: eps}",
    ],
)
def test_a_yaml_beside_the_file_may_name_it(some: State, tmp_path: Path, line: str) -> None:
    save_file(some, tmp_path / "m.safetensors")
    (tmp_path / "m.yaml").write_text(f"model:\n  params:\n{line}\n")
    _predicts_v(tmp_path / "m.safetensors", "m.yaml: ")


def test_a_yaml_beside_the_file_may_name_the_noise_or_nothing(some: State, tmp_path: Path) -> None:
    save_file(some, tmp_path / "m.safetensors")
    scaling = "params:\n  scaling_config:\n    target: sgm.modules.diffusionmodules.denoiser_scaling."
    for text in (
        *("", "# nothing\n", "--- {}\n---\nparameterization: null\n", "about: |\n  not\n  parameterization: v\n"),
        *(f"{scaling}EpsScaling\n", "rescale_betas_zero_snr: false\n"),
        'model:\n  params:\n    parameterization: "eps"  # not "v"\n',
        "a: 1 # {parameterization: v}\n",
    ):
        (tmp_path / "m.yaml").write_text(text)
        assert open_checkpoint(tmp_path / "m.safetensors", TINY).config == TINY
    for text, named in (
        ('model:\n  params:\n    parameterization: "x0"\n', "m.yaml: model.params.parameterization is 'x0'"),
        ("parameterization: v\nrescale_betas_zero_snr: true\n", "m.yaml: rescale_betas_zero_snr is 'true'"),
        (f"{scaling}EDMScaling\n", "denoiser_scaling.EDMScaling'"),
        (f"{scaling}VScalingWithEDMcNoise\n", "denoiser_scaling.VScalingWithEDMcNoise'"),
    ):
        (tmp_path / "m.yaml").write_text(text)
        assert named in _refusal(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\n\tb: 2\n",
        "a: *it\n",
        "[" * 1000,
        "# " + "x" * 2**17,
        "a: &a\n  a: *a\n" + "".join(f"  a{k}: *a\n" for k in range(9)),
        "a0: &a0 {}\n"
        + "".join(f"a{k + 1}: &a{k + 1} {{{', '.join(f'b{n}: *a{k}' for n in range(9))}}}\n" for k in range(7)),
    ],
    ids=["a tab", "an alias of nothing", "deep", "long", "within itself", "of millions"],
)
def test_a_yaml_that_is_no_configuration_is_named(some: State, tmp_path: Path, text: str) -> None:
    save_file(some, tmp_path / "m.safetensors")
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"m\.yaml is (no readable YAML|too large)") as caught:
        open_checkpoint(tmp_path / "m.safetensors", TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "Entry not found",
            "Repository not found",
            "Not Found\n",
            "404 page not found",
            '{"error":"Entry not found"}',
        ),
        *('{"message": "Not Found", "status": "404"}', '<?xml version="1.0"?><Error>', "429: Too Many Requests"),
        *("404: Not Found", "<!DOCTYPE html>\n<p>", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1"),
    ],
)
def test_what_came_in_place_of_a_yaml_is_named(some: State, tmp_path: Path, text: str) -> None:
    save_file(some, tmp_path / "m.safetensors")
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"m\.yaml is a web page, its error or a Git LFS pointer"):
        open_checkpoint(tmp_path / "m.safetensors", TINY)


def test_a_yaml_that_says_nothing_of_a_model_is_told(some: State, tmp_path: Path) -> None:
    save_file(some, tmp_path / "m.safetensors")
    for text in ("", "a: 1\n", "just words", "- model\n"):
        (tmp_path / "m.yaml").write_text(text)
        with pytest.warns(UserWarning, match=r"m\.yaml says nothing of a model"):
            open_checkpoint(tmp_path / "m.safetensors", TINY)


# --- noise schedule ---


def _table(schedule: NoiseSchedule) -> Tensor:
    return schedule.alphas_cumprod


LINEAR = NoiseSchedule(kind="linear", beta_start=0.0001, beta_end=0.02)
OTHER = NoiseSchedule(kind="scaled_linear", beta_start=0.001, beta_end=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_stable_diffusions_own_schedule_is_known_in_every_precision(
    some: State, tmp_path: Path, dtype: torch.dtype
) -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    sigmas = (1 / alphas - 1).sqrt()
    tables = {
        "betas": betas,
        "alphas_cumprod": alphas,
        "denoiser.sigmas": sigmas,
        "model.denoiser.sigmas": sigmas.flip(0),
    }
    tables = {name: table.to(dtype) for name, table in tables.items()}
    for i, names in enumerate(
        (["betas"], ["alphas_cumprod"], ["betas", "alphas_cumprod"], ["denoiser.sigmas"], ["model.denoiser.sigmas"], [])
    ):
        save_file({**some, **{name: tables[name] for name in names}}, tmp_path / f"{i}.safetensors")
        assert _schedule(tmp_path / f"{i}.safetensors") == NoiseSchedule()
    assert inspect(tmp_path / "0.safetensors").schedule is None


@pytest.mark.parametrize("table", ["betas", "alphas_cumprod", "denoiser.sigmas"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
def test_a_table_that_was_rounded_and_stored_wider_again_is_known(
    some: State, tmp_path: Path, table: str, dtype: torch.dtype
) -> None:
    alphas = _table(NoiseSchedule())
    before = torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
    tables = {"betas": 1 - alphas / before, "alphas_cumprod": alphas, "denoiser.sigmas": (1 / alphas - 1).sqrt()}
    for wider in (torch.float16, torch.float32):
        save_file({**some, table: tables[table].to(dtype).to(wider)}, tmp_path / "m.safetensors")
        if table == "betas" and dtype.itemsize == 1:
            with pytest.raises(CheckpointError, match="betas of 8 bits are too coarse"):
                _schedule(tmp_path / "m.safetensors")
        else:
            assert _schedule(tmp_path / "m.safetensors") == NoiseSchedule()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_merged_table_is_that_of_both(some: State, tmp_path: Path, dtype: torch.dtype) -> None:
    for schedule in (NoiseSchedule(), LINEAR, NoiseSchedule(kind="cosine")):
        table = _table(schedule).to(dtype)
        for share in (0.1, 0.3, 0.45, 0.6, 0.7):
            merged = {**some, "alphas_cumprod": share * table + (1 - share) * table}
            save_file(merged, tmp_path / "m.safetensors")
            assert _schedule(tmp_path / "m.safetensors") == schedule


@pytest.mark.parametrize("schedule", [LINEAR, OTHER, NoiseSchedule(kind="cosine"), NoiseSchedule(500)])
@pytest.mark.parametrize(
    "table", ["alphas_cumprod", "betas", "model.alphas_cumprod", "denoiser.sigmas", "model.denoiser.sigmas"]
)
def test_another_stored_schedule_is_followed(some: State, tmp_path: Path, schedule: NoiseSchedule, table: str) -> None:
    alphas = _table(schedule)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
    stored = 1 - alphas / before if table == "betas" else alphas
    if table.endswith("sigmas"):
        stored = (1 / alphas - 1).sqrt()
    save_file({**some, table: stored.float()}, tmp_path / "m.safetensors")
    schedule = _schedule(tmp_path / "m.safetensors")
    assert schedule.train_steps == len(alphas)
    torch.testing.assert_close(_table(schedule), alphas, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_sigmas_may_be_as_coarse_as_the_weights(some: State, tmp_path: Path, dtype: torch.dtype) -> None:
    save_file(
        {**some, "denoiser.sigmas": (1 / _table(NoiseSchedule()) - 1).sqrt().to(dtype)}, tmp_path / "m.safetensors"
    )
    assert _schedule(tmp_path / "m.safetensors") == NoiseSchedule()


@pytest.mark.parametrize(
    ("parameters", "schedule"),
    [
        ("linear_start: 0.00085, linear_end: 0.0120, timesteps: 1000", NoiseSchedule()),
        ("parameterization: v", NoiseSchedule()),
        ("timesteps: 500", NoiseSchedule(500)),
        ("linear_start: null, linear_end: ~, timesteps: 1000", NoiseSchedule()),
        ("linear_start: 0.001, linear_end: 0.02", OTHER),
        ("linear_start: 1e-3", OTHER),
        ("beta_schedule: linear, linear_start: 0.001, linear_end: 2e-2", OTHER),
        ("beta_schedule: sqrt_linear, linear_start: 0.0001, linear_end: 0.02", LINEAR),
        ("beta_schedule: sqrt_linear", LINEAR),
        ("beta_schedule: cosine, linear_start: 0.5", NoiseSchedule(kind="cosine")),
    ],
)
def test_a_yaml_beside_the_file_may_give_the_schedule(
    some: State, tmp_path: Path, parameters: str, schedule: NoiseSchedule
) -> None:
    (tmp_path / "m.yaml").write_text(f"model:\n  params: {{{parameters}, first_stage_config: {{linear_start: 0.3}}}}\n")
    save_file(some, tmp_path / "m.safetensors")
    assert _schedule(tmp_path / "m.safetensors") == schedule
    save_file({**some, "betas": torch.zeros(1000)}, tmp_path / "m.safetensors")  # a table that nobody filled in
    assert _schedule(tmp_path / "m.safetensors") == schedule
    save_file({**some, "alphas_cumprod": _table(NoiseSchedule(kind="cosine")).float()}, tmp_path / "m.safetensors")
    assert _schedule(tmp_path / "m.safetensors") == NoiseSchedule(kind="cosine")  # the file's own counts


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("linear_start: 0.9", "betas run from 0.9 to 0.02"),
        ("linear_end: many", "could not convert string to float: 'many'"),
        ("timesteps: 1000000000", "1000000000 timesteps; expected 1 to 100,000"),
        ("beta_schedule: sqrt", "kind is 'sqrt'"),
    ],
)
def test_a_yaml_with_a_schedule_that_no_sampler_can_follow_is_refused(
    some: State, tmp_path: Path, parameters: str, message: str
) -> None:
    (tmp_path / "m.yaml").write_text(f"model: {{params: {{{parameters}}}}}\n")
    save_file(some, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"m\.yaml gives a noise schedule that cannot be used: ") as caught:
        open_checkpoint(tmp_path / "m.safetensors", TINY)
    assert message in str(caught.value)


def test_inspect_names_another_schedule(some: State, tmp_path: Path) -> None:
    save_file({**some, "alphas_cumprod": _table(LINEAR).float()}, tmp_path / "m.safetensors")
    found = inspect(tmp_path / "m.safetensors")
    assert str(found.schedule).startswith("NoiseSchedule(train_steps=1000, beta_start=0.0001")
    assert f"noise schedule: {found.schedule}" in str(found)


@pytest.mark.slow
def test_a_sampler_chosen_by_name_follows_the_models_schedule(state: State, tmp_path: Path) -> None:
    save_file({**state, "alphas_cumprod": _table(LINEAR).float()}, tmp_path / "m.safetensors")
    usual, sd = random_model(), load(tmp_path / "m.safetensors", config=TINY)
    options: dict[str, Any] = {"method": "sd", "output": "latent", "progress": False}
    named = Pipeline(sd)("a cat", sampler="ddim", steps=2, **options)
    given = Pipeline(usual)("a cat", sampler=DDIM(2, schedule=sd.schedule), **options)
    assert torch.equal(named.latents, given.latents)
    assert not torch.equal(named.latents, Pipeline(usual)("a cat", sampler="ddim", steps=2, **options).latents)
    assert named.recipes[0].sampler == DDIM(2, schedule=LINEAR)
    asked = Pipeline(sd)("a cat", sampler=DDIM(2), **options)  # a sampler of one's own has its own
    assert asked.recipes[0].sampler == DDIM(2)


@pytest.mark.parametrize("pickled", ["zip", "legacy"])
def test_pickles_store_schedules_too(some: State, tmp_path: Path, pickled: str) -> None:
    weights = {"state_dict": {**some, "alphas_cumprod": _table(LINEAR).float()}}
    torch.save(weights, tmp_path / "m.ckpt", _use_new_zipfile_serialization=pickled == "zip")
    assert _schedule(tmp_path / "m.ckpt") == LINEAR
    # A legacy file's values are at its end, and are not read to inspect it.
    assert (inspect(tmp_path / "m.ckpt").schedule is None) == (pickled == "legacy")


@pytest.mark.parametrize(
    ("table", "values", "message"),
    [
        ("alphas_cumprod", torch.linspace(1, 0, 1000), r"alphas_cumprod\[0\] is 1\.0"),
        ("alphas_cumprod", torch.linspace(0.1, 0.9, 1000), r"expected values that fall"),
        ("alphas_cumprod", torch.full((1000,), torch.nan), "nan"),
        ("alphas_cumprod", torch.ones(1000, 1), r"alphas_cumprod has shape \[1000, 1\]"),
        ("alphas_cumprod", torch.arange(1000), "torch.int64"),
        ("betas", torch.linspace(0, 1, 1000), "cannot be used"),
        ("betas", torch.zeros(0), r"betas has shape \[0\]"),
    ],
)
def test_a_schedule_that_no_sampler_can_follow_is_refused(
    some: State, tmp_path: Path, table: str, values: Tensor, message: str
) -> None:
    save_file({**some, table: values}, tmp_path / "m.safetensors")
    for use in (lambda path: load(path, config=TINY), inspect):
        with pytest.raises(CheckpointError, match=message) as caught:
            use(tmp_path / "m.safetensors")
        assert str(caught.value).startswith(f"{tmp_path / 'm.safetensors'}")


@pytest.mark.slow
def test_a_saved_model_keeps_its_schedule(state: State, tmp_path: Path) -> None:
    save_file({**state, "alphas_cumprod": _table(OTHER).float()}, tmp_path / "m.safetensors")
    sd = load(tmp_path / "m.safetensors", config=TINY)
    for dtype in (None, torch.float16):
        save(sd, tmp_path / "again.safetensors", "compvis", dtype=dtype)
        again = load(tmp_path / "again.safetensors", config=TINY)
        torch.testing.assert_close(_table(again.schedule), _table(OTHER), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"a noise schedule of its own.* layout 'compvis'"):
        save(sd, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.slow
def test_the_latents_scale_is_the_one_that_the_file_stores(some: State, tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    for stored, scale in (
        (torch.tensor(0.13), 0.13),
        (torch.tensor([1.5]), 1.5),
        (torch.tensor(0.18215), 0.18215),
        (torch.tensor(0.18215).bfloat16(), 0.18215),
    ):
        save_file({**some, "scale_factor": stored}, file)
        opened = open_checkpoint(file, TINY)
        assert opened.config.vae.scale == pytest.approx(scale, rel=1e-6)
        told = f"vae: latents are scaled by {scale:.6g}, as is stored"
        assert (told in opened.notes) == (told in str(inspect(file))) == (scale != 0.18215)
    torch.save({"state_dict": {**some, "scale_factor": torch.tensor(0.13)}}, tmp_path / "m.ckpt")
    assert open_checkpoint(tmp_path / "m.ckpt", TINY).config.vae.scale == pytest.approx(0.13)
    for wrong in (0.0, -1.0, torch.nan, torch.inf):
        save_file({**some, "scale_factor": torch.tensor(wrong)}, file)
        with pytest.raises(CheckpointError, match=r"scale_factor is .*; expected a positive number"):
            load(file, config=TINY)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_scale_in_eight_bits_is_the_usual_one(some: State, tmp_path: Path, dtype: torch.dtype) -> None:
    for value, scale in ((0.18215, 0.18215), (0.13025, 0.13025), (1.5, 1.5)):
        save_file({**some, "scale_factor": torch.tensor(value).to(dtype)}, tmp_path / "m.safetensors")
        config = replace(TINY, vae=replace(TINY.vae, scale=0.13025 if value == 0.13025 else 0.18215))
        assert open_checkpoint(tmp_path / "m.safetensors", config).config.vae.scale == scale


def test_a_scale_that_is_no_number_is_named(some: State, tmp_path: Path) -> None:
    for wrong in (torch.tensor(1 + 2j), torch.tensor(True)):
        torch.save({"state_dict": {**some, "scale_factor": wrong}}, tmp_path / "m.ckpt")
        with pytest.raises(CheckpointError, match=r"scale_factor is .*; expected a positive number"):
            open_checkpoint(tmp_path / "m.ckpt", TINY)


def test_a_yaml_beside_the_file_may_give_the_scale(some: State, tmp_path: Path) -> None:
    file, configuration = tmp_path / "m.safetensors", tmp_path / "m.yaml"
    save_file(some, file)
    for value, scale in (("0.13025", 0.13025), ("1.5", 1.5), ("0.1822", 0.18215), ("null", 0.18215)):
        configuration.write_text(f"model:\n  params: {{scale_factor: {value}}}\n")
        assert open_checkpoint(file, TINY).config.vae.scale == scale
    save_file({**some, "scale_factor": torch.tensor(0.7)}, file)
    assert open_checkpoint(file, TINY).config.vae.scale == pytest.approx(0.7)  # the file's own counts
    save_file(some, file)
    for wrong in ("0", "-1", "nan", "inf", "much"):
        configuration.write_text(f"model:\n  params: {{scale_factor: {wrong}}}\n")
        with pytest.raises(CheckpointError, match=rf"m\.yaml: scale_factor is {wrong}; expected a positive number"):
            open_checkpoint(file, TINY)


@pytest.mark.parametrize(
    ("settings", "prediction"),
    [
        ({"prediction_type": "${model.kind}", "model": {"kind": "v"}}, "v"),
        ({"a": {"prediction_type": "${kind}"}, "kind": "epsilon"}, "epsilon"),
        ({"prediction_type": "${prediction_type}", "a": {"prediction_type": "v_prediction"}}, "v"),
        ({"a": {"prediction_type": "${.kind}", "kind": "v"}}, "v"),
        ({"prediction_type": "${b}", "b": "${c[kind]}", "c": {"kind": "v"}}, "v"),
        (
            {"old": {"model": {"kind": "v"}}, "model": {"kind": "epsilon"}, "prediction_type": "${model.kind}"},
            "epsilon",
        ),
    ],
)
def test_a_setting_that_names_another_is_that(
    some: State, tmp_path: Path, settings: dict[str, object], prediction: str | None
) -> None:
    torch.save({"state_dict": some, "cfg": settings}, tmp_path / "m.ckpt")
    found = stated_prediction(open_tensors(tmp_path / "m.ckpt"))
    assert found is not None
    assert found.prediction == prediction
    for nothing in ("???", "${nowhere}", "${oc.env:KIND,epsilon}", "${prediction_type}"):
        torch.save({"state_dict": some, "cfg": {"prediction_type": nothing}}, tmp_path / "m.ckpt")
        assert stated_prediction(open_tensors(tmp_path / "m.ckpt")) is None


@pytest.mark.parametrize(
    ("config", "usual", "others"),
    [
        (TINY, "last", ("penultimate", "hidden", "pooled", "1" * 200)),
        (TINY_V2, "penultimate", ("last", "hidden")),
    ],
)
def test_a_yaml_that_names_another_layer_of_the_text_encoder_is_refused(
    some: State, tmp_path: Path, config: StableDiffusionConfig, usual: str, others: tuple[str, ...]
) -> None:
    def read(layer: str) -> None:
        lines = ("model:", "  params:", "    cond_stage_config:", "      params:", f"        layer: {layer}")
        (tmp_path / "m.yaml").write_text("\n".join(lines))
        stated_text(open_tensors(tmp_path / "m.safetensors"), config)

    save_file(some, tmp_path / "m.safetensors")
    for layer in (usual, usual.upper(), "null"):
        read(layer)
    for layer in others:
        with pytest.raises(CheckpointError, match=rf"m\.yaml: .*\.layer is '{layer[:80]}'; expected '{usual}', or"):
            read(layer)


@pytest.mark.slow
def test_the_layer_that_a_trainer_names_is_read(state: State, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for metadata, layer in (
        ({"modelspec.encoder_layer": "2"}, -2),
        ({"ss_clip_skip": " 2 "}, -2),
        ({"ss_clip_skip": "None", "modelspec.encoder_layer": "1"}, -1),
        ({"ss_clip_skip": ""}, -1),
        ({"about": "ss_clip_skip 2"}, -1),
        ({"modelspec.encoder_layer": "1", "ss_clip_skip": "2"}, -2),
        ({"sd_merge_recipe": '{"x": {"ss_clip_skip": 2}}', "modelspec.encoder_layer": "1"}, -1),
        ({"sd_merge_recipe": '{"x": {"ss_clip_skip": 2}}'}, -2),
        ({"ot_config": '{"text_encoder_layer_skip": 1}'}, -2),
        ({"ot_config": '{"text_encoder_layer_skip": 0}'}, -1),
    ):
        save_file(state, path, metadata)
        opened = open_tensors(path)
        assert stated_text(opened, TINY).output_layer == layer
        if "ot_config" not in metadata:
            assert stated_text(opened, TINY_V2) == TINY_V2.text
    for key in ("text_encoder_layer_skip", "text_encoder_2_layer_skip"):
        save_file(state, path, {"ot_config": f'{{"{key}": 1}}'})
        for config in (TINY_V2, TINY_XL):  # where the layer is of the kind of model
            with pytest.raises(CheckpointError, match=rf"ot_config\.{key} is '1'; expected 0, or a `config`"):
                stated_text(open_tensors(path), config)
    for value in ("3", "two", "-1", "2" * 100):
        save_file(state, path, {"ss_clip_skip": value})
        with pytest.raises(CheckpointError, match=rf"ss_clip_skip is '{value[:80]}'; expected which of the 2 layers"):
            stated_text(open_tensors(path), TINY)


@pytest.mark.slow
def test_a_saved_model_keeps_its_layer(tmp_path: Path) -> None:
    sd = random_model(replace(TINY, text=replace(TINY.text, output_layer=-2)))
    save(sd, tmp_path / "m.safetensors", "compvis")
    assert stated_text(open_tensors(tmp_path / "m.safetensors"), TINY) == sd.config.text
    other = random_model(replace(TINY, text=replace(TINY.text, final_norm=False)))
    with pytest.raises(ValueError, match="final_norm is False, for which no layout has a place"):
        save(other, tmp_path / "other.safetensors", "compvis")
    assert not (tmp_path / "other.safetensors").exists()


def test_sgms_yaml_may_give_the_schedule(some: State, tmp_path: Path) -> None:
    def read(discretization: str) -> NoiseSchedule:
        denoiser = f"{{params: {{num_idx: 1000, discretization_config: {{{discretization}}}}}}}"
        (tmp_path / "m.yaml").write_text(f"model:\n  params:\n    denoiser_config: {denoiser}\n")
        return _schedule(tmp_path / "m.safetensors")

    save_file(some, tmp_path / "m.safetensors")
    module = "sgm.modules.diffusionmodules.discretizer"
    legacy = f"target: {module}.LegacyDDPMDiscretization"
    for text, schedule in (
        (legacy, NoiseSchedule()),
        (f"{legacy}, params: {{linear_start: 0.001, linear_end: 0.02}}", OTHER),
        (
            f"{legacy}, params: {{linear_end: 0.02}}",
            NoiseSchedule(beta_start=0.00085, beta_end=0.02, kind="scaled_linear"),
        ),
        (f"{legacy}, params: {{num_timesteps: 500}}", NoiseSchedule(500)),
    ):
        assert read(text) == schedule
    with pytest.raises(CheckpointError, match=rf"m\.yaml: .*target is '{module}\.EDMDiscretization'; expected Legacy"):
        read(f"target: {module}.EDMDiscretization, params: {{sigma_max: 80}}")


def test_betas_of_eight_bits_are_no_schedule(some: State, tmp_path: Path) -> None:
    alphas = _table(NoiseSchedule())
    betas = 1 - alphas / torch.cat([torch.ones(1), alphas[:-1]])
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        save_file({**some, "betas": betas.to(dtype)}, tmp_path / "m.safetensors")
        with pytest.raises(CheckpointError, match=r"betas of 8 bits are too coarse .*; expected 16 bits"):
            _schedule(tmp_path / "m.safetensors")
        save_file({**some, "betas": betas.to(dtype), "alphas_cumprod": alphas.to(dtype)}, tmp_path / "m.safetensors")
        assert _schedule(tmp_path / "m.safetensors") == NoiseSchedule()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("table", ["alphas_cumprod", "denoiser.sigmas"])
def test_another_schedule_in_eight_bits_is_not_taken_for_the_usual_one(
    some: State, tmp_path: Path, dtype: torch.dtype, table: str
) -> None:
    roots = _table(NoiseSchedule()).sqrt()
    without_end = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2  # zero terminal SNR
    for alphas in (without_end, _table(LINEAR) if table == "denoiser.sigmas" else without_end):
        stored = alphas if table == "alphas_cumprod" else (1 / alphas.clamp(min=1e-4) - 1).sqrt()
        save_file({**some, table: stored.to(dtype)}, tmp_path / "m.safetensors")
        with pytest.raises(CheckpointError, match=r"too coarse|cannot be used"):
            _schedule(tmp_path / "m.safetensors")


def test_who_gives_a_configuration_says_which_layer_is_read(some: State, tmp_path: Path) -> None:
    save_file(some, tmp_path / "m.safetensors")
    (tmp_path / "m.yaml").write_text("model: {params: {cond_stage_config: {params: {layer: hidden, layer_idx: 11}}}}")
    with pytest.raises(CheckpointError, match="layer is 'hidden'"):
        open_checkpoint(tmp_path / "m.safetensors")
    assert open_checkpoint(tmp_path / "m.safetensors", TINY).config == TINY


@pytest.mark.slow
def test_a_saved_model_keeps_its_scale(tmp_path: Path) -> None:
    sd = random_model(replace(TINY, vae=replace(TINY.vae, scale=0.7)))
    save(sd, tmp_path / "m.safetensors", "compvis")
    again = load(tmp_path / "m.safetensors", config=TINY)
    assert again.vae.scale == 0.7
    assert again.config == sd.config
    save(random_model(), tmp_path / "usual.safetensors", "compvis")
    assert "scale_factor" not in load_file(tmp_path / "usual.safetensors")
