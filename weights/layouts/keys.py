"""Which component of a checkpoint a single file's key belongs to, past everything that tools put in front of it."""

from __future__ import annotations

from dataclasses import dataclass

PREFIXES = {
    "unet": ("model.diffusion_model.", "diffusion_model.", "unet."),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": (
        "cond_stage_model.transformer.",
        "cond_stage_model.",
        "conditioner.embedders.0.transformer.",
        "conditioner.embedders.0.",
        "text_encoder.",
    ),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoder_2."),
}
"""How keys of each component begin: in CompVis's files first, then in others."""

EMA_PREFIX = "model_ema."

# What compiled, distributed and checkpointed modules insert anywhere in a key.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
_OUTER = {"state_dict", "model", "model_state_dict"}  # dictionaries and modules around a whole model
_AVERAGES = {"model_ema", "ema", "ema_model", "ema_state_dict", "state_dict_ema"}
_LONGEST = 1000  # characters of a key; those of networks have a hundred
_COLLAPSED = "diffusion_model"  # how keys begin that the trainer has deleted the dots of


@dataclass(frozen=True)
class Key:
    """What a key says: the component (None for what is no network's) and the name there; `average` for an EMA's."""

    component: str | None
    name: str
    average: bool = False


def read_key(key: str) -> Key:
    """Take a single file's key apart; a name that no component claims comes without what wraps it."""
    if len(key) > _LONGEST:  # taking it apart would last
        return Key(None, key)
    parts, average = _unwrapped(key), False
    while True:
        name = ".".join(parts)
        for component, prefixes in PREFIXES.items():
            if prefix := next((prefix for prefix in prefixes if name.startswith(prefix)), None):
                return Key(component, name.removeprefix(prefix), average)
        if average and name.startswith(_COLLAPSED):
            return Key("unet", name.removeprefix(_COLLAPSED), average)
        if len(parts) < 2 or parts[0] not in _OUTER | _AVERAGES:
            return Key(None, name, average)
        average |= parts.pop(0) in _AVERAGES


def name_in_folder(key: str, component: str) -> str:
    """The name of a weight in a file that holds only one component: without what wraps it, or the key as it is."""
    read = read_key(key)
    return read.name if read.component in (None, component) and not read.average else key


def _unwrapped(key: str) -> list[str]:
    return [part for part in key.split(".") if part not in _WRAPPERS]
