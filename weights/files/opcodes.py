"""A pickle's opcodes, read without executing any: what it would import, and how much work it would make."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import BinaryIO

from ..errors import CheckpointError

_MOST_WORK = 20_000_000  # objects; a checkpoint's pickle has some tens for each of its tensors
_MOST_OPCODES = 2_000_000  # of which a tensor has some tens
_MARK = 0  # among the sizes on a simulated stack


def globals_of(pickled: bytes | BinaryIO) -> Iterator[str]:
    """Yield `module.name` for each global in one pickle.

    Raises CheckpointError for tuples that hold tuples so often that only hashing one would take forever, for more
    opcodes than any checkpoint has, and whatever `pickletools` raises for damage.
    """
    stack = _Stack()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if count == _MOST_OPCODES:
            raise CheckpointError(f"its pickle has more than {_MOST_OPCODES:,} opcodes")
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".", 1)
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(stack.texts[-2:])
        stack.follow(opcode, argument)


class _Stack:
    """The unpickler's stack and memo, with two facts in each object's place: its size, which is all that its tuples
    hold, counted as often as it is held, and one for other objects; and its text, if it is one."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._sizes: list[int] = []
        self._memo: dict[int, tuple[int, str]] = {}
        self._work = 0

    def follow(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        """Do to the facts what the opcode does to the objects."""
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            at = len(self._memo) if opcode.name == "MEMOIZE" else int(str(argument))
            self._memo[at] = self._sizes[-1], self.texts[-1]
            return
        taken = self._taken(opcode)
        self._work += taken
        if self._work > _MOST_WORK:
            raise CheckpointError("its pickle holds tuples within tuples without end")
        size, text = taken + 1 if "TUPLE" in opcode.name else 1, argument if isinstance(argument, str) else ""
        if opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            size, text = self._memo[int(str(argument))]
        is_mark = opcode.stack_after == [pickletools.markobject]
        self._sizes += [_MARK if is_mark else size] * len(opcode.stack_after)
        self.texts += [text] * len(opcode.stack_after)

    def _taken(self, opcode: pickletools.OpcodeInfo) -> int:
        """Take what the opcode takes off the stack; the sum of the sizes."""
        count, taken = len(opcode.stack_before), 0
        if pickletools.markobject in opcode.stack_before:
            count = opcode.stack_before.index(pickletools.markobject)
            while size := self._sizes.pop():
                taken += size
        for _ in range(count):
            taken += self._sizes.pop()
        del self.texts[len(self._sizes) :]
        return taken
