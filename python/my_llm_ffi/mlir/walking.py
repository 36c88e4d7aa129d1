"""What passes ask of a function: its operations, who shares memory with whom, who comes first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch_mlir import ir
from torch_mlir.dialects import func

from . import calls, dialect
from .graph import WRITTEN
from .storage import KV_CACHE, type_name


def functions(module: ir.Module) -> Iterator[Any]:
    """The functions of a module that have a body."""
    for operation in module.body.operations:
        if isinstance(operation, func.FuncOp) and len(operation.regions[0].blocks):
            yield operation


def body(function: Any) -> list[Any]:
    """The operations of a function, in order.

    Raises:
        MlirError: It has more than one block: control flow is no part of a plan.
    """
    from .text import error_at

    if len(function.regions[0].blocks) != 1:
        raise error_at(function.operation, "a function must have one block, without branches")
    return list(function.regions[0].blocks[0].operations)


def call_of(operation: Any) -> calls.Call | None:
    """The operation as a call of an op; None for others."""
    op = dialect.op_of(operation)
    return None if op is None else calls.read(operation, op)


def defining(value: Any) -> Any:
    """The operation that a value is a result of; None for an argument."""
    owner = value.owner
    return None if isinstance(owner, ir.Block) else owner


def call_making(value: Any, name: str) -> calls.Call | None:
    """The call of the op of this name that a value is a result of; None if it is none."""
    operation = defining(value)
    call = None if operation is None else call_of(operation)
    return call if call is not None and call.op.name == name else None


def users(value: Any) -> list[Any]:
    """Operations that use a value."""
    return [use.owner.operation for use in value.uses]


class Memory:
    """Which values of a function are the same memory: views, updates, destinations.

    Attributes:
        root: For each value the first one of its memory.
        members: All values of a memory, by its root.
        written: Arguments that ops may write in place.
    """

    def __init__(self, function: Any) -> None:
        self.root: dict[Any, Any] = {a: a for a in function.arguments}
        self._order: dict[Any, int] = {}  # by the first result: operations hash by their contents
        self._others: list[tuple[Any, int]] = []
        self.members: dict[Any, list[Any]] = {a: [a] for a in function.arguments}
        self.written: set[Any] = set()
        for argument, marks in zip(function.arguments, argument_marks(function)):
            if WRITTEN in marks or type_name(argument.type) == KV_CACHE:
                self.written.add(argument)
        for position, operation in enumerate(body(function)):
            self.move(operation, position)
            self._add(operation)

    def _add(self, operation: Any) -> None:
        call = call_of(operation)
        for result in operation.results:
            self._put(result, result)
        if call is not None:
            for index, result in call.updates.items():
                self._put(result, self.root[call.inputs[index]])
            for result, memory in zip(call.outputs, call.into):
                self._put(result, self.root[memory])
        elif str(operation.name) == "llm.view":
            self._put(operation.results[0], self.root[operation.operands[0]])

    def _put(self, value: Any, root: Any) -> None:
        self.root[value] = root
        self.members.setdefault(root, [])
        if value not in self.members[root]:
            self.members[root].append(value)

    def at(self, operation: Any) -> int:
        """Position of an operation."""
        if len(operation.results):
            return self._order[operation.results[0]]
        return next(position for known, position in self._others if known == operation.operation)

    def move(self, operation: Any, position: int) -> None:
        """Gives an operation a position."""
        if len(operation.results):
            self._order[operation.results[0]] = position
        else:
            self._others.append((operation.operation, position))

    def may_be_written(self, value: Any) -> bool:
        """Whether ops may overwrite the memory of a value, if nobody reads it later."""
        root = self.root[value]
        maker = defining(root)
        return root in self.written if maker is None else not str(maker.name).startswith("arith.")

    def last_use(self, value: Any, *, but: Any = None) -> int:
        """Position of the last operation that uses the memory of a value; −1 if there is none."""
        found = [
            self.at(user)
            for member in self.members[self.root[value]]
            for user in users(member)
            if but is None or user != but
        ]
        return max(found, default=-1)

    def is_written_between(self, value: Any, first: Any, last: Any) -> bool:
        """Whether a call between two operations writes over the memory of a value."""
        begin, end = self.at(first), self.at(last)
        return any(
            begin < self.position(member) < end and call_of(defining(member)) is not None
            for member in self.members[self.root[value]]
        )

    def position(self, value: Any) -> int:
        """Position of the operation that makes a value; −1 for arguments."""
        maker = defining(value)
        return -1 if maker is None else self.at(maker)


def _marks(attribute: Any) -> dict[str, Any]:
    listed = ir.DictAttr(attribute)
    return {entry.name: entry.attr for entry in (listed[i] for i in range(len(listed)))}


def argument_marks(function: Any) -> list[dict[str, Any]]:
    """The attributes of each argument."""
    attributes = function.operation.attributes
    if "arg_attrs" not in attributes:
        return [{} for _ in function.arguments]
    return [_marks(a) for a in attributes["arg_attrs"]]


def result_marks(function: Any) -> list[dict[str, Any]]:
    """The attributes of each result."""
    attributes = function.operation.attributes
    if "res_attrs" not in attributes:
        return [{} for _ in function.type.results]
    return [_marks(a) for a in attributes["res_attrs"]]
