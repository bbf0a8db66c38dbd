"""Plain Stable Diffusion: classifier-free guidance and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..guidance import Method


@dataclass(frozen=True)
class StableDiffusionBaseline(Method):
    """Rombach et al. 2022; the baseline that every other method is compared with. No hyper-parameters."""

    name: ClassVar[str] = "sd"
    changes: ClassVar[str] = "changes nothing"
    reference: ClassVar[str] = "Rombach et al. 2022 (Stable Diffusion)"
