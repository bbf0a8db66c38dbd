"""What every function of this package raises when a checkpoint is not what it should be."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A file or folder is not a Stable Diffusion v1 checkpoint that can be used; the message names it and says why."""
