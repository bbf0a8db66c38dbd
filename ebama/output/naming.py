"""Names of files and folders, made from prompts and other texts: in UTF-8, whatever the locale's encoding."""

from __future__ import annotations

import hashlib
import os
import re


def slug(prompt: str) -> str:
    """The name of a prompt's folder, of at most 80 bytes: file systems count bytes, not letters."""
    words = "-".join(re.findall(r"\w+", prompt.lower()))
    return _on_disk(_cut(words, 80) or "prompt")


def file_name(text: str) -> str:
    """A text as the name of a file or folder: itself, unless it is long or some file system would mind."""
    safe = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", text.encode(errors="replace").decode())
    name = _cut(safe, 120).strip(". ")
    if name != text:
        name += f"-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
    return _on_disk(name)


def _cut(text: str, length: int) -> str:
    return text.encode()[:length].decode(errors="ignore")


def _on_disk(name: str) -> str:
    """A name as Python spells it in paths: as it is, but escaped where the locale's encoding is ASCII."""
    return os.fsdecode(name.encode())
