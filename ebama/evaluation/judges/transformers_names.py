"""transformers' names of version 5 for what version 4 calls otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import transformers

if not TYPE_CHECKING and transformers.__version__.startswith("4."):
    from transformers import BertTokenizerFast as BertTokenizer
    from transformers import BlipImageProcessor as BlipImageProcessorPil
    from transformers import CLIPImageProcessor as CLIPImageProcessorPil

    DTYPE = "torch_dtype"
else:
    from transformers import BertTokenizer, BlipImageProcessorPil, CLIPImageProcessorPil

    DTYPE = "dtype"
    """The argument of `from_pretrained` that says the weights' type."""

__all__ = ["DTYPE", "BertTokenizer", "BlipImageProcessorPil", "CLIPImageProcessorPil"]
