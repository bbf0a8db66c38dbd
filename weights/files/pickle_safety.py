"""Reading PyTorch pickles without running anything in them.

`torch.load(weights_only=True)` refuses every global it does not know. Trainers leave more than tensors behind; what
`stand_ins` knows by rule is resolved to classes of ours that do nothing, so nothing is imported and nothing called.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, listed
from .archive import is_zip, read_pickle, record_sizes
from .opcodes import globals_of
from .regular import is_refusal
from .stand_ins import Inert, modern_name, stand_in

_TENSOR_NAMES = {
    "_codecs.encode",
    "collections.OrderedDict",
    "torch.Size",
    "torch.Tensor",
    "torch._tensor._rebuild_from_type_v2",  # of a tensor with attributes
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout",
    "torch.storage.UntypedStorage",
}
_REMEDY = "Ask for the checkpoint as .safetensors, which cannot hold code."
_DEPTH = 6  # of dictionaries within each other that are looked into
_LOCK = threading.Lock()  # torch's list of safe globals is shared by all threads


def load_pickle(path: Path, *, meta: bool = False) -> Mapping[object, object]:
    """The dictionary in a `torch.save` file, zip or legacy; tensors of a zip are memory-mapped.

    With `meta` tensors that cannot be mapped have shapes and dtypes but no values, and only the pickle is read. Raises
    CheckpointError, naming the global, if the file wants anything but tensors and known leftovers.
    """
    names = pickle_globals(path)
    if refused := refused_globals(names):
        raise CheckpointError(
            f"{path} is not safe to open: its pickle asks for {', '.join(refused[:5])}, which is not part of a "
            f"Stable Diffusion checkpoint. Nothing was run. {_REMEDY}"
        )
    zipped = is_zip(path)
    inert = [(kind, modern_name(name)) for name in names if (kind := stand_in(name)) is not None]
    # torch.load maps paths only, but it trusts their ending ".safetensors" over the content.
    mapped = zipped and path.suffix != ".safetensors"
    try:
        with ExitStack() as stack:
            file = stack.enter_context(path.open("rb"))
            stack.enter_context(_LOCK)
            stack.enter_context(warnings.catch_warnings())
            stack.enter_context(torch.serialization.safe_globals(inert))  # type: ignore[arg-type]
            # Older versions may refuse this and read the weights too. TorchVersion compares numbers, not characters.
            if meta and not zipped and torch.__version__ >= "2.10":
                stack.enter_context(torch.serialization.skip_data())
            warnings.simplefilter("ignore")
            loaded = torch.load(
                path if mapped else file,
                weights_only=True,
                mmap=mapped,
                map_location="meta" if meta and not mapped else "cpu",
            )
            left = 0 if zipped or meta else path.stat().st_size - file.tell()
    except Exception as error:  # damaged pickles make torch raise almost anything
        if is_refusal(error):
            raise
        raise CheckpointError(f"{path} could not be read as a PyTorch checkpoint: {_short(error)} {_REMEDY}") from error
    if left:
        raise CheckpointError(f"{path} is damaged: {left:,} bytes are left after its last weight; download it again.")
    if not isinstance(loaded, Mapping):
        what = "an object of another program" if isinstance(loaded, Inert) else f"a {type(loaded).__name__}"
        raise CheckpointError(f"{path} holds {what}; expected a dictionary of weights.")
    if mapped and (missing := _storage_sizes(loaded) - record_sizes(path)):  # torch maps on, past a record's end
        raise CheckpointError(f"{path} is damaged: it lacks a record of {min(missing):,} bytes; download it again.")
    return loaded


def _storage_sizes(loaded: Mapping[object, object]) -> Counter[int]:
    """How many of the mapped storages have so many bytes."""
    storages = (Tensor.untyped_storage(tensor) for _, tensor in _leaves(loaded, Tensor))
    return Counter({storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}.values())


def plain_tensors(path: Path, loaded: Mapping[object, object]) -> dict[str, Tensor]:
    """The tensors of a checkpoint's dictionary and of those inside it, under dotted names, `state_dict.` left out.
    CheckpointError for two of one name."""
    tensors: dict[str, Tensor] = {}
    for name, value in _leaves(loaded, Tensor):
        if name in tensors:
            raise CheckpointError(
                f"{path} holds {listed([name])} twice, in dictionaries within each other; expected it once."
            )
        # Not value.detach(), which an attribute of the file may stand before; of a view whose sign is turned when read.
        tensors[name] = Tensor.detach(value).resolve_neg()
    return tensors


def plain_settings(loaded: Mapping[object, object]) -> dict[str, str]:
    """What is said beside the tensors in strings, numbers and truth values, as text by dotted names."""
    return {name: str(value) for name, value in _leaves(loaded, (str, bool, int, float))}


def _leaves(
    value: object, kind: Any, name: str = "", depth: int = _DEPTH, seen: set[int] | None = None
) -> Iterator[tuple[str, Any]]:
    """Values of a kind in nested dictionaries whose keys are strings; a dictionary that comes again is passed over."""
    seen = set() if seen is None else seen
    if isinstance(value, kind):
        yield name, value
    elif isinstance(value, Mapping) and depth and id(value) not in seen:
        seen.add(id(value))
        for key, inner in Mapping.items(value):  # an attribute of the file's may stand before its own
            if isinstance(key, str):
                inside = name if key == "state_dict" else f"{name}.{key}" if name else key
                yield from _leaves(inner, kind, inside, depth - 1, seen)


def refused_globals(names: Iterable[str]) -> list[str]:
    """Those of a pickle's globals for which `load_pickle` refuses it: neither leftovers nor what tensors need.

    On the latter torch's own restricted unpickler has the last word.
    """
    return sorted(name for name in names if not (stand_in(name) or name in _TENSOR_NAMES or _is_torch_type(name)))


def pickle_globals(path: Path) -> set[str]:
    """All `module.name` that the pickles of a file would import; read from the opcodes, nothing is executed.

    Raises CheckpointError for a damaged archive, and for a pickle in one that is damaged.
    """
    names: set[str] = set()
    zipped = is_zip(path)
    with BytesIO(read_pickle(path)) if zipped else path.open("rb") as file:
        try:
            # A legacy file is five pickles (magic number, version, system, object, storage keys), then raw data.
            for _ in range(1 if zipped else 5):
                names.update(globals_of(file))
        except CheckpointError as error:
            raise CheckpointError(f"{path} is not safe to open: {error}. Nothing was run. {_REMEDY}") from error
        except Exception as error:  # pickletools raises almost anything
            # Damage of a legacy file, or another kind of pickle, ends the search: torch.load will say so, safely.
            if zipped:
                why = f"{path} is damaged in its pickle ({_short(error)}); download it again."
                raise CheckpointError(why) from error
    return names


def _is_torch_type(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    is_dtype = isinstance(getattr(torch, attribute, None), torch.dtype)
    return module == "torch" and (attribute.endswith("Storage") or is_dtype)


def _short(error: Exception) -> str:
    """The first sentence of an error, without torch's advice to switch its safety off."""
    text = str(error).rpartition("WeightsUnpickler error: ")[2].removeprefix("Weights only load failed.")
    text = re.split(r"In PyTorch 2.6|Please |Check the documentation|\n", text.strip())[0]
    if text.startswith("Unsupported operand"):
        text = "its pickle is of another protocol than torch.save's usual 2, and torch reads no other safely"
    return f"{text.strip()[:200].rstrip('.') or type(error).__name__}."
