"""The cost of the library's parts on this machine, alone or beside diffusers: `train_free.py bench`."""

from __future__ import annotations
