"""Where the samples of a run start: in noise, in a picture under noise, or in an inverted picture."""

from __future__ import annotations

from .images import Picture, decode, digest, encode, fitted
from .inversion import Inversion, Inverter, NullText, described
from .noise import InitialNoise, latent_size
from .start import Images, Start, check_strength, second_start, start

__all__ = [
    "Images",
    "InitialNoise",
    "Inversion",
    "Inverter",
    "NullText",
    "Picture",
    "Start",
    "check_strength",
    "decode",
    "described",
    "digest",
    "encode",
    "fitted",
    "latent_size",
    "second_start",
    "start",
]
