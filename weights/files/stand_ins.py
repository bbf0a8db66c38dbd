"""Which leftovers of a trainer may stand in a pickle beside the tensors, and the inert objects that stand for them.

By rule: containers and plain values of Python, arrays and scalars of numpy, paths, dates and numbers, optimizers of
torch that settings name, and whatever the packages of configurations and trainers made. None of it is imported; other
names are refused.
"""

from __future__ import annotations

import re
from collections import OrderedDict

_PLAIN = {
    "builtins": "Ellipsis bool bytearray bytes complex dict float frozenset int list object range set slice str tuple "
    "type",
    "array": "array",
    "collections": "ChainMap Counter OrderedDict UserDict UserList UserString",
    "copyreg": "_reconstructor __newobj__",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "random": "Random",
    "torch.torch_version": "TorchVersion",  # a text
    "types": "SimpleNamespace",
    "typing": "Any Dict List Optional Tuple Union",
    "uuid": "SafeUUID UUID",
}
_NUMPY = {
    "numpy": "bool bool_ bytes_ complex128 complex64 datetime64 dtype float16 float32 float64 generic int16 int32 "
    "int64 int8 longdouble longlong ndarray object_ str_ timedelta64 uint16 uint32 uint64 uint8 ulonglong void",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
}
_BY_NAME = {module: frozenset(names.split()) for module, names in (_PLAIN | _NUMPY).items()}
_CONFIGURATIONS = {
    "accelerate",
    "addict",
    "argparse",
    "box",
    "deepspeed",
    "diffusers",
    "easydict",
    "hydra",
    "lightning",
    "lightning_fabric",
    "lightning_utilities",
    "ml_collections",
    "mmcv",
    "mmengine",
    "munch",
    "omegaconf",
    "pytorch_lightning",
    "transformers",
    "yacs",
}
_MAPPINGS = re.compile(r"Dict|Map|Box|Munch|Node|Params")  # names of configurations that are dictionaries of their own
# Names that Python 2 had for modules and types, under which torch.save still writes them.
_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    **dict.fromkeys(("UserDict", "UserList", "UserString"), "collections"),
}
_TYPES = {"unicode": "str", "long": "int", "xrange": "range", "IterableUserDict": "UserDict"}


class Inert:
    """Stands for an object that a checkpoint's trainer left behind; accepts everything and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class InertMapping:
    """Stands for what may be a dictionary of its own kind: torch fills in entries and attributes of this type only."""

    def __new__(cls, *args: object, **kwargs: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        """Ignore the arguments."""
        return OrderedDict()


class InertList:
    """Stands for what entries are appended to: torch appends to lists only."""

    def __new__(cls, *args: object, **kwargs: object) -> list[object]:  # type: ignore[misc]
        """Ignore the arguments."""
        return []


class InertValue(Inert):
    """Stands for a single value of omegaconf's."""

    value: object = None

    def __setstate__(self, state: object) -> None:
        self.value = state.get("_val") if isinstance(state, dict) else None


class InertNamespace(OrderedDict[object, object]):
    """Stands for an object that holds values by name, as its attributes or `within` one of them: holds them."""

    within: str | None = None

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Ignore the arguments."""
        super().__init__()

    def __setstate__(self, state: object) -> None:
        held = state.get(self.within) if self.within and isinstance(state, dict) else state
        for name, value in held.items() if isinstance(held, dict) else ():
            self[name] = value.value if isinstance(value, InertValue) else value


class InertParameters(InertNamespace):
    """Stands for torch's dictionary of parameters, which is a module."""

    within = "_parameters"


class InertDictConfig(InertNamespace):
    """Stands for omegaconf's dictionary."""

    within = "_content"


class InertConfigDict(InertNamespace):
    """Stands for the dictionary of ml_collections."""

    within = "_fields"


_CONTAINERS: dict[str, type] = {
    "argparse.Namespace": InertNamespace,
    "types.SimpleNamespace": InertNamespace,
    "collections.defaultdict": InertMapping,
    "collections.deque": InertList,
    "ml_collections.config_dict.config_dict.ConfigDict": InertConfigDict,
    "ml_collections.config_dict.config_dict.FrozenConfigDict": InertConfigDict,
    "omegaconf.dictconfig.DictConfig": InertDictConfig,
    "torch.nn.modules.container.ParameterDict": InertParameters,
}


def stand_in(name: str) -> type | None:
    """What stands for `module.name` of a pickle; None for what no rule allows."""
    name = modern_name(name)
    if name in _CONTAINERS:
        return _CONTAINERS[name]
    module, _, attribute = name.rpartition(".")
    if module == "omegaconf.nodes":
        return InertValue
    if module.partition(".")[0] in _CONFIGURATIONS:
        return InertMapping if _MAPPINGS.search(attribute) else Inert
    module = module.replace("pathlib._local", "pathlib").replace("numpy._core", "numpy.core")
    by_module = f"{module}.".startswith(("numpy.dtypes.", "numpy.ma.", "numpy.random.", "torch.optim."))
    return Inert if by_module or attribute in _BY_NAME.get(module, ()) else None


def modern_name(name: str) -> str:
    """`module.name` as Python 3 has it, which is how torch looks it up."""
    module, _, attribute = name.rpartition(".")
    if module in _MODULES:
        module, attribute = _MODULES[module], _TYPES.get(attribute, attribute)
    return f"{module}.{attribute}"
