"""Small random models and the files that trainers, converters and attackers make of them."""

from __future__ import annotations

import json
import pickle
import types
from pathlib import Path

import torch
from torch import Tensor, nn

from ebama.models import VAE, StableDiffusionConfig, TextConfig, TextEncoder, UNet, UNetConfig, VAEConfig
from ebama.weights import StableDiffusion, clip_tokenizer
from ebama.weights.layouts.compvis import unet_renaming, vae_renaming
from ebama.weights.tokenizer import clip_merges, clip_tokens

TINY = StableDiffusionConfig(
    unet=UNetConfig(widths=(16, 32), attention=(True, False), heads=(2, 4), blocks=1, context_width=8, norm_groups=8),
    vae=VAEConfig(widths=(8, 16), blocks=1, norm_groups=8),
    text=TextConfig(width=8, mlp_width=16, layers=2, heads=2),
    sample_size=16,
    name="tiny",
)
"""Of more kinds of weights than the model of `reference`: a level without attention, widths that change."""
COMPONENTS = ("unet", "vae", "text_encoder")


def random_model(config: StableDiffusionConfig = TINY, seed: int = 0) -> StableDiffusion:
    """A model whose weights, norms and biases included, are all random."""
    generator = torch.Generator().manual_seed(seed)
    networks: list[nn.Module] = [UNet(config.unet), VAE(config.vae), *map(TextEncoder, config.texts)]
    for network in networks:
        network.eval().requires_grad_(False)
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    parts = dict(zip((*COMPONENTS, "text_encoder_2"), networks, strict=False))
    return StableDiffusion(tokenizer=clip_tokenizer(), config=config, **parts)


def components(sd: StableDiffusion) -> tuple[str, ...]:
    """The networks that it has."""
    return COMPONENTS if sd.text_encoder_2 is None else (*COMPONENTS, "text_encoder_2")


def compvis_state(sd: StableDiffusion) -> dict[str, Tensor]:
    """The state dict a CompVis trainer would have saved, schedule and position ids included."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    state = {"betas": betas.float(), "alphas_cumprod": torch.cumprod(1 - betas, 0).float()}
    unet, vae = unet_renaming(sd.config.unet), vae_renaming(sd.config.vae)
    for name, weight in sd.unet.state_dict().items():
        state[f"model.diffusion_model.{unet.to_compvis(name)}"] = weight
    for name, weight in sd.vae.state_dict().items():
        theirs = vae.to_compvis(name)
        is_attention = ".attn_1." in theirs and weight.ndim == 2
        state[f"first_stage_model.{theirs}"] = weight[:, :, None, None] if is_attention else weight
    if sd.text_encoder_2 is not None:
        state |= _clip_state(sd.text_encoder, "conditioner.embedders.0.transformer.text_model.")
        state |= openclip_state(sd.text_encoder_2, "conditioner.embedders.1.model.")
    elif sd.config.text.activation == "gelu":
        state |= openclip_state(sd.text_encoder, "cond_stage_model.model.")
    else:
        state |= _clip_state(sd.text_encoder, "cond_stage_model.transformer.text_model.")
    return {name: weight.contiguous() for name, weight in state.items()}


def _clip_state(encoder: TextEncoder, prefix: str) -> dict[str, Tensor]:
    weights = {f"{prefix}{name}": weight for name, weight in encoder.state_dict().items()}
    return {**weights, f"{prefix}embeddings.position_ids": torch.arange(77)[None]}


def openclip_state(encoder: TextEncoder, prefix: str) -> dict[str, Tensor]:
    """What OpenCLIP would have saved: its names, its layers whole, and one layer more where the model reads no last."""
    weights, layers = encoder.state_dict(), encoder.config.layers
    state = {
        "token_embedding.weight": weights["embeddings.token_embedding.weight"],
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "ln_final.weight": weights["final_layer_norm.weight"],
        "ln_final.bias": weights["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
        "text_projection": torch.ones(encoder.config.width, 7),
    }
    if encoder.config.projection_width:
        state["text_projection"] = weights["text_projection.weight"].T
    for i in range(layers):
        for part in ("weight", "bias"):
            ours, theirs = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
            attention = [weights[f"{ours}.self_attn.{name}_proj.{part}"] for name in "qkv"]
            state |= {
                f"{theirs}.attn.in_proj_{part}": torch.cat(attention),
                f"{theirs}.attn.out_proj.{part}": weights[f"{ours}.self_attn.out_proj.{part}"],
                f"{theirs}.ln_1.{part}": weights[f"{ours}.layer_norm1.{part}"],
                f"{theirs}.ln_2.{part}": weights[f"{ours}.layer_norm2.{part}"],
                f"{theirs}.mlp.c_fc.{part}": weights[f"{ours}.mlp.fc1.{part}"],
                f"{theirs}.mlp.c_proj.{part}": weights[f"{ours}.mlp.fc2.{part}"],
            }
    if encoder.config.output_layer == -1:
        last = {name: w for name, w in state.items() if f"resblocks.{layers - 1}." in name}
        state |= {name.replace(f".{layers - 1}.", f".{layers}."): -weight for name, weight in last.items()}
    return {prefix + name: weight for name, weight in state.items()}


def differing(a: StableDiffusion, b: StableDiffusion) -> list[str]:
    """Names of the weights that are not bit for bit the same in two models."""
    names = []
    for component in components(a):
        ours, theirs = getattr(a, component).state_dict(), getattr(b, component).state_dict()
        assert list(ours) == list(theirs)
        names += [f"{component}.{name}" for name in ours if not torch.equal(ours[name], theirs[name])]
    return names


def small_tokenizer(folder: Path) -> dict[str, int]:
    """Write the files of a tokenizer of CLIP's first merges; its vocabulary."""
    merges = clip_merges()[:400]
    vocabulary = {token: i for i, token in enumerate(clip_tokens(merges))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return vocabulary


class Global:
    """Pickled by `save_with_globals` as an import of `module.name`, whether or not that exists."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:
        raise AssertionError("only its name is pickled")


class Call:
    """Pickled as a call of a global: `module.name(*args)`, then `__setstate__(state)` if there is a state."""

    def __init__(self, function: object, *args: object, state: object = None) -> None:
        self.function, self.args, self.state = function, args, state

    def __call__(self) -> None:
        raise AssertionError("only pickled")

    def __reduce__(self) -> tuple[object, ...]:
        return (self.function, self.args) if self.state is None else (self.function, self.args, self.state)


class _GlobalPickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    def save(self, obj: object, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        else:
            super().save(obj, save_persistent_id)


def save_with_globals(obj: object, path: Path, *, legacy: bool = False) -> None:
    """`torch.save` for objects that hold `Global`s."""
    module = types.SimpleNamespace(Pickler=_GlobalPickler, dump=pickle.dump, __name__="pickle")
    torch.save(obj, path, pickle_module=module, _use_new_zipfile_serialization=not legacy)


def lightning_extras(numpy: str = "numpy.core") -> dict[object, object]:
    """What a Lightning trainer leaves beside `state_dict`: a callback as class and as instance, and numpy scores."""
    dtype = Call(Global("numpy", "dtype"), "f8", False, True, state=(3, "<", None, None, None, -1, -1, 0))
    score = Call(Global(f"{numpy}.multiarray", "scalar"), dtype, b"\x00" * 8)
    callback = Global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    instance = Call(Global("pytorch_lightning.callbacks.early_stopping", "EarlyStopping"), state={"wait": 3})
    return {
        "epoch": 17,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {callback: {"best_model_score": score, "monitor": "val/loss"}, "early": instance},
    }
