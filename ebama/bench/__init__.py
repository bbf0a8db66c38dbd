"""What the library's parts cost on this machine, alone or beside diffusers: `train_free.py bench`."""

from __future__ import annotations
