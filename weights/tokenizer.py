"""The CLIP tokenizer: built from the merges that ship with the package, or read from a checkpoint's folder."""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib import resources
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError
from .files.regular import is_there
from .layouts.padding import added_tokens, borrowed_padding, without_special_padding

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import CLIPTokenizer

VOCABULARY = 49408
POSITIONS = 77
_FILLED = 0.9  # of the text encoder's rows: tables are padded to round numbers
_WORDS = 20  # by which a tokenizer is tried
_START, _END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(positions: int = POSITIONS) -> CLIPTokenizer:
    """The tokenizer of Stable Diffusion v1: 49,408 tokens, 77 positions or another number.

    Built once for all models and threads: do not change it in place, which its own padding and truncation would do
    (see `token_rows`).
    """
    return _clip_tokenizer(positions)


@lru_cache(maxsize=4)
def _clip_tokenizer(positions: int) -> CLIPTokenizer:
    import transformers  # slow to import, and not needed to open or save weights

    merges = clip_merges()
    vocabulary = {token: i for i, token in enumerate(clip_tokens(merges))}
    if transformers.__version__.startswith("4."):
        tokenizer = _from_files(vocabulary, merges, positions)
    else:
        # Declared as strings, but only pairs work.
        tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=positions)  # type: ignore[arg-type]
    # transformers ignores arguments it does not know and then builds a vocabulary of two.
    if len(tokenizer) != VOCABULARY:
        raise RuntimeError(f"transformers built a CLIP tokenizer of {len(tokenizer)} tokens; expected {VOCABULARY}.")
    return tokenizer


def clip_tokenizer_class() -> type[CLIPTokenizer]:
    """The class that knows where tokens stand in a text: in transformers 4 that is not CLIPTokenizer."""
    import transformers

    if transformers.__version__.startswith("4."):
        return transformers.CLIPTokenizerFast  # type: ignore[no-any-return, attr-defined, unused-ignore]
    return transformers.CLIPTokenizer


def read_tokenizer(folder: Path, vocabulary: int, positions: int) -> CLIPTokenizer:
    """Read a `tokenizer/` folder: vocab.json and merges.txt, or tokenizer.json.

    `vocabulary` and `positions` are the text encoder's; ids beyond the first or texts beyond the second would
    fail later. A "!" that is typed stays one, though the folder may name it as padding. Raises CheckpointError.
    """
    if not (is_there(folder / "tokenizer.json") or all(is_there(folder / n) for n in ("vocab.json", "merges.txt"))):
        raise CheckpointError(f"{folder} holds no tokenizer: expected tokenizer.json, or vocab.json and merges.txt.")
    with as_read(folder) as (files, options):
        tokenizer = _from_folder(files, **options)
        added = added_tokens(files)
    last = max(tokenizer.get_vocab().values(), default=-1)
    least = max(2 * len(_byte_symbols()) + 1, int(_FILLED * vocabulary))
    if len(tokenizer) < least or last >= vocabulary:
        raise CheckpointError(
            f"{folder} holds {len(tokenizer)} tokens, the last with id {last}; expected {least} or more, since this "
            f"text encoder's table has {vocabulary} rows, and no id beyond them."
        )
    _check_added(folder, added, tokenizer.get_vocab())
    if several := [token for token in added if f"{token}_1" in added]:
        warnings.warn(
            f"{folder} has further vectors of {several[0][:80]!r}, which a prompt names one by one: "
            f"'{several[0][:80]} {several[0][:80]}_1', and so on.",
            stacklevel=2,
        )
    check_words(folder, tokenizer, "</w>")
    ends = tokenizer.convert_ids_to_tokens(tokenizer("")["input_ids"])
    if ends != [_START, _END]:
        raise CheckpointError(f"{folder} puts {ends} around a text; expected {_START} before it and {_END} after it.")
    # Folders without tokenizer_config.json have no limit, and long prompts would then not be cut.
    tokenizer.model_max_length = positions
    stand_as_usual(tokenizer)
    return tokenizer


def _check_added(folder: Path, added: Mapping[str, int], known: Mapping[str, int]) -> None:
    """Raise CheckpointError if an added token is not known by its file's id, whose row it would read."""
    for token, number in added.items():
        if known.get(token) != number:
            raise CheckpointError(
                f"{folder} adds the token {token[:80]!r} with id {number}, but it is read as {known.get(token)}; "
                "expected ids that follow those of the vocabulary, without gaps."
            )


@contextmanager
def as_read(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The files of a CLIP tokenizer's folder, and how transformers is to read them: padding that texts are made of is
    a token like any other."""
    if (pad := borrowed_padding(folder)) is None:
        yield folder, {}
        return
    with ExitStack() as stack:
        try:
            copy = stack.enter_context(TemporaryDirectory())
            without_special_padding(folder, Path(copy), pad)
        except OSError as error:
            raise CheckpointError(
                f"{folder} could not be copied into the temporary folder ({error}); let TMPDIR name another."
            ) from error
        try:
            yield Path(copy), {"pad_token": _END}
        except ValueError as error:  # not in the copy, which is gone by then
            kind = CheckpointError if isinstance(error, CheckpointError) else ValueError
            raise kind(str(error).replace(copy, str(folder))) from error


def stand_as_usual(tokenizer: Any) -> None:
    """Let words stand where the models look for them, whatever a folder says: at the left, none of them cut yet."""
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()


def check_words(folder: Path, tokenizer: Any, end: str) -> None:
    """Raise CheckpointError unless a tokenizer, whose words end in `end`, reads most of the words that it has as
    themselves: one without its merges, or of another kind, still gives ids."""
    tokens: dict[str, int] = tokenizer.get_vocab()
    last_first = sorted(tokens, key=tokens.__getitem__, reverse=True)
    words = list(islice((token for token in last_first if _is_word(token, end)), _WORDS))
    texts = [word.removesuffix(end) for word in words]
    try:
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    except Exception as error:  # the tokenizers library raises plain Exception
        raise CheckpointError(f"{folder} holds a tokenizer that does not work: {error}") from error
    if not words or 2 * sum(i == [tokens[word]] for word, i in zip(words, ids, strict=True)) < len(words):
        example = f"{texts[0]!r} becomes {len(ids[0])} tokens" if words else "it has no words"
        raise CheckpointError(
            f"{folder} holds a tokenizer that does not know its own words ({example}); download it again."
        )


def _is_word(token: str, end: str) -> bool:
    word = token.removesuffix(end)
    return token.endswith(end) and len(word) > 2 and word.isascii() and word.isalpha() and word.islower()


def token_rows(tokenizer: CLIPTokenizer, texts: Sequence[str], length: int, pad: int | None = None) -> list[list[int]]:
    """The ids of each text, cut or padded on the right to `length`, start and end included.

    `pad` is the token that fills the rest; None: the tokenizer's own.

    Padding and truncation of a tokenizer are its state, which all threads share; they are neither switched here nor
    do they matter: what an encoding lacks is in its further parts.
    """
    backend, rows = tokenizer.backend_tokenizer, []
    pad = tokenizer.pad_token_id if pad is None else pad
    repeated = (backend.truncation or {}).get("stride", 0)
    for encoding in backend.encode_batch(list(texts)):
        content = _content(encoding)
        for part in encoding.overflowing:
            content += _content(part)[repeated:]
        mask, real = encoding.special_tokens_mask, encoding.attention_mask
        specials = [token for token, special, one in zip(encoding.ids, mask, real, strict=True) if special and one]
        start = sum(real[: mask.index(0)]) if 0 in mask else len(specials)
        row = [*specials[:start], *content[: length - len(specials)], *specials[start:]]
        rows.append(row + [pad] * (length - len(row)))
    return rows


def _content(encoding: Encoding) -> list[int]:
    return [token for token, special in zip(encoding.ids, encoding.special_tokens_mask, strict=True) if not special]


def _from_folder(folder: Path, **options: Any) -> CLIPTokenizer:
    try:
        tokenizer: CLIPTokenizer = clip_tokenizer_class().from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise CheckpointError(f"{folder} could not be read as a CLIP tokenizer: {error}") from error
    return tokenizer


def clip_tokens(merges: Sequence[tuple[str, str]]) -> list[str]:
    """A vocabulary in CLIP's order: bytes, bytes that end a word, what the merges make, start and end."""
    symbols = _byte_symbols()
    return [*symbols, *(s + "</w>" for s in symbols), *("".join(pair) for pair in merges), _START, _END]


def clip_merges() -> list[tuple[str, str]]:
    """The 48,894 pairs of OpenAI's byte-pair encoding, in the order of their rank."""
    packed = resources.files(__package__).joinpath("clip_merges.txt.gz").read_bytes()
    merges = []
    for line in gzip.decompress(packed).decode().strip().split("\n"):
        first, second = line.split(" ")
        merges.append((first, second))
    return merges


def _from_files(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], positions: int) -> CLIPTokenizer:
    """A tokenizer by transformers 4, which takes files only."""
    with TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        lines = ["#version: 0.2", *map(" ".join, merges)]
        Path(folder, "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        tokenizer: CLIPTokenizer = clip_tokenizer_class().from_pretrained(folder, model_max_length=positions)
    return tokenizer


def _byte_symbols() -> list[str]:
    """One printable character for each of the 256 bytes, in CLIP's order: printable bytes first, as themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(256, 256 + others))]
