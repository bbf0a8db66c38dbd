"""Names of files and folders, made from prompts and other texts."""

from __future__ import annotations

import hashlib
import re


def slug(prompt: str) -> str:
    """The name of a prompt's folder, of at most 80 bytes: file systems count bytes, not letters."""
    words = "-".join(re.findall(r"\w+", prompt.lower()))
    return words.encode()[:80].decode(errors="ignore") or "prompt"


def file_name(text: str) -> str:
    """A text as the name of a file or folder: itself, unless it is long or some file system would mind."""
    safe = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", text.encode(errors="replace").decode())
    name = safe.encode()[:120].decode(errors="ignore").strip(". ")
    return name if name == text else f"{name}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
