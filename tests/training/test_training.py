"""The miniature's training: a loop that resumes, words that see each other, grounding, all stages to weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ebama.models import MINIATURE, VAE
from ebama.training.loop import Loss, TrainingConfig, checkpoint, train
from ebama.weights import load

CONFIG = TrainingConfig(steps=12, batch=4, lr=1e-2, warmup=3, save_every=0.0)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # trainings take one


class Interrupted(Exception):
    pass


def regression(stop_at: int | None = None) -> Loss:
    def loss(network: nn.Module, step: int, worker: int) -> tuple[Tensor, dict[str, float]]:
        if step == stop_at:
            raise Interrupted
        x = torch.randn(CONFIG.batch, 3, generator=torch.Generator().manual_seed(step))
        value = (network(x) - x.sum(dim=1, keepdim=True)).square().mean()
        return value, {"twice": 2 * value.item()}

    return loss


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def test_interrupted_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = train("toy", network(), regression(), CONFIG, tmp_path / "whole")
    assert whole is not None
    with pytest.raises(Interrupted):
        train("toy", network(), regression(stop_at=7), CONFIG, tmp_path / "parts")
    assert torch.load(tmp_path / "parts" / "toy.pt", weights_only=True)["step"] == 7
    (tmp_path / "parts" / "toy.jsonl").write_text('{"step": 1, "lo')  # what a kill in the middle of a write leaves
    parts = train("toy", network(), regression(), CONFIG, tmp_path / "parts")
    assert parts is not None
    assert parts.samples == whole.samples == 12 * 4
    for name, value in whole.network.state_dict().items():
        assert torch.equal(parts.network.state_dict()[name], value)
    logged = [json.loads((tmp_path / name / "toy.jsonl").read_text()) for name in ("whole", "parts")]
    assert [row["step"] for row in logged] == [12, 12]
    assert logged[0]["twice"] == pytest.approx(2 * logged[0]["loss"])


@pytest.mark.parametrize("content", [b"", b"\0" * 1000, b"<html>", b"PK\x03\x04"])
def test_a_damaged_state_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "judge.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"judge\.pt is damaged; copy it again, or delete it"):
        checkpoint(tmp_path, "judge")


def test_learning_rate_rises_stays_and_falls() -> None:
    config = TrainingConfig(steps=100, batch=1, lr=1.0, final_lr=0.1, warmup=10, flat=0.5)
    assert config.lr_at(0) == pytest.approx(0.1)
    assert config.lr_at(9) == config.lr_at(50) == 1.0
    assert config.lr_at(75) == pytest.approx(0.55)
    assert config.lr_at(100) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="steps = 0"):
        replace(config, steps=0)
    with pytest.raises(ValueError, match=r"flat = 1\.0"):
        replace(config, flat=1.0)


class TestUNet:
    @pytest.fixture(autouse=True)
    def _rasteriser(self) -> None:
        pytest.importorskip("resvg_py")

    def test_words_see_each_other_only_once_they_may_learn_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from ebama.training import train_unet

        monkeypatch.setattr(train_unet, "UNet", lambda config: nn.Identity())  # is not asked, and large
        torch.manual_seed(0)
        network = train_unet.Denoiser()
        text_encoder = network.text_encoder
        ids = torch.tensor([[1, 2, 3], [1, 4, 3]])  # the last word's left neighbour differs

        def learn() -> None:
            trained = [p for p in text_encoder.parameters() if p.requires_grad]
            (text_encoder(ids)[:, 2] * torch.arange(128)).sum().backward()
            torch.optim.SGD(trained, lr=1e-3).step()

        local = text_encoder(ids)
        learn()
        assert not torch.equal(text_encoder(ids), local)
        assert torch.equal(*text_encoder(ids)[:, 2])
        network.let_words_see_each_other(True)
        assert all(p.requires_grad for p in text_encoder.parameters())
        learn()
        assert not torch.allclose(*text_encoder(ids)[:, 2])

    def test_grounding_is_the_square_of_what_lies_outside(self) -> None:
        from ebama.training.drawing.scenes import Drawn, Scene
        from ebama.training.train_unet import grounding_loss

        named = (("cat", None), ("bench", "red"))
        drawn = (Drawn("cat", None, (0, 0, 32, 32)), Drawn("bench", "red", (32, 0, 64, 64)))
        picture = torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()
        scene = Scene(picture, "a cat and a red bench", named, drawn, "clean")
        inside = torch.zeros(1, 16, 16, 77)
        inside[:, :8, :8, 2] = 1  # "cat"
        inside[:, :, 8:, 5:7] = 1  # "red", "bench"
        assert grounding_loss([inside], [scene], [True]).item() == 0
        everywhere = torch.ones(1, 16, 16, 77)
        expected = (0.75**2 + 2 * 0.5**2) / 3
        assert grounding_loss([everywhere], [scene], [True]).item() == pytest.approx(expected)
        wrong = replace(scene, noise="colour")
        assert grounding_loss([everywhere], [scene, wrong][1:], [True]).item() == 0
        assert grounding_loss([everywhere], [scene], [False]).item() == 0

    @pytest.mark.slow
    def test_decoder_goes_on_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from ebama.training.drawing.scenes import TRAINING, UNITS, Composer
        from ebama.training.vae import train_small

        for name in ("CONFIG", "DECODER_CONFIG"):
            monkeypatch.setattr(train_small, name, replace(getattr(train_small, name), steps=4, batch=2))
        monkeypatch.setattr(train_small, "standardise", partial(train_small.standardise, count=400))
        train_small.train_small(tmp_path)
        stages = [checkpoint(tmp_path, name)["averaged"] for name in ("vae_half", "vae_half_decoder")]
        changed = {name for name, weight in stages[0].items() if not torch.equal(weight, stages[1][name])}
        standardised = {f"vae.{name}" for name in ("quant_conv.weight", "quant_conv.bias")}
        assert {name for name in changed if not name.startswith(("vae.decoder.", "vae.post_quant"))} == standardised
        assert any(name.startswith("vae.decoder.") for name in changed)
        vae = train_small.load_small(tmp_path, "vae_half_final")
        composer, rng = Composer(TRAINING, UNITS), np.random.default_rng(3)
        with torch.no_grad():
            z = vae.encode(train_small.to_tensor([composer.compose(rng).image for _ in range(200)])).mean
        assert z.mean(dim=(0, 2, 3)).abs().max() < 0.1
        assert (z.std(dim=(0, 2, 3)) - 1).abs().max() < 0.1

    @pytest.mark.slow
    def test_small_encoder_changes_in_the_first_stage_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ebama.training.vae import train_small, train_whole

        torch.manual_seed(0)
        before = {"vae": VAE(train_small.SMALL).state_dict(), "seconds": 0.0}
        torch.save(before, tmp_path / "vae_half_final.pt")
        for name in ("LATENTS_CONFIG", "CONFIG"):
            monkeypatch.setattr(train_whole, name, replace(getattr(train_whole, name), batch=1))
        train_whole.main(["--state", str(tmp_path), "--steps", "4", "4"])  # one whole picture, windows
        final = {name: torch.load(tmp_path / f"{name}_final.pt", weights_only=True) for name in ("latents", "vae")}
        first, second = (checkpoint(tmp_path, name)["averaged"] for name in ("vae_latents", "vae"))
        for name, weight in final["latents"]["vae"].items():
            assert torch.equal(weight, first[f"small.{name}"])
            assert torch.equal(weight, second[f"small.{name}"])
            learns = name.startswith(("encoder.", "quant_conv."))
            assert torch.equal(weight, before["vae"][name]) != learns, name
        vae = VAE(MINIATURE.vae)
        vae.load_state_dict(final["vae"]["vae"])
        assert not torch.equal(vae.decoder.conv_in.weight, first["vae.decoder.conv_in.weight"])
        assert not torch.equal(vae.encoder.conv_in.weight, first["vae.encoder.conv_in.weight"])
        assert final["vae"]["seconds"] > final["latents"]["seconds"] > 0

    @pytest.mark.slow
    def test_all_stages_become_weights_that_load(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from ebama.training import pack, train_unet
        from ebama.training.vae.train_small import SMALL

        for name, config in (("latents_final", SMALL), ("vae_final", MINIATURE.vae)):
            torch.save({"vae": VAE(config).state_dict(), "seconds": 1.0}, tmp_path / f"{name}.pt")
        stages = [replace(stage, config=replace(stage.config, batch=1)) for stage in train_unet.STAGES]
        monkeypatch.setattr(train_unet, "STAGES", stages)
        steps = [1, 2, 1, 1, 1, 1, 1, 1]
        monkeypatch.setattr("sys.argv", ["train_unet", "--state", str(tmp_path), "--steps", *map(str, steps)])
        train_unet.main()
        pack.main(["--state", str(tmp_path), "--out", str(tmp_path / "packed")])
        figures = json.loads((tmp_path / "packed" / "training.json").read_text())
        assert [figures[f"{stage.name}_steps"] for stage in train_unet.STAGES] == steps
        sd = load(tmp_path / "packed")
        weights = dict(sd.text_encoder.named_parameters())
        assert weights["encoder.layers.0.self_attn.q_proj.weight"].abs().max() > 0
        known, other = sd.encode_text(["a cat"]), sd.encode_text(["a zebra"])
        assert not torch.equal(known, other)
        assert torch.equal(other, sd.encode_text(["a piano"]))  # unknown words share a row
