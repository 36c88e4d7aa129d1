"""The pass ``plan-buffers``: every output gets its memory as an operand, and memory is shared."""

from __future__ import annotations

from typing import Any

from torch_mlir import ir

from . import calls, dialect
from .pipelines import register_pass
from .walking import Memory, body, call_of, functions

STORAGE = "storage"


@register_pass("plan-buffers")
def plan_buffers(module: ir.Module, *, in_place: bool = True) -> None:
    """Allocates results: destination-passing form, as the registered functions have it.

    Each output gets an ``llm.buffer``. Buffers whose values are not alive at the same time get the
    same ``storage``, if they have the same type. An op that says so (``may be x``) writes over an
    input that nobody reads afterwards. What the function returns has memory of its own.

    Options: ``in-place=false`` keeps ops from writing over their inputs.
    """
    for function in functions(module):
        _Planner(function, in_place).run()


class _Planner:
    def __init__(self, function: Any, in_place: bool) -> None:
        self.function, self.in_place = function, in_place
        self.memory = Memory(function)
        self.operations = body(function)
        self.free: dict[Any, list[int]] = {}  # storages of a type that nobody uses now
        self.busy: list[tuple[int, Any, int]] = []  # last use, type, storage
        self.storage_of: dict[Any, tuple[Any, int]] = {}  # by root
        self.count = 0

    def run(self) -> None:
        """Goes through the operations in order."""
        returned = {
            self.memory.root[v] for op in self.operations if _is_return(op) for v in op.operands
        }
        for position, operation in enumerate(self.operations):
            self._release(position)
            call = call_of(operation)
            if call is None or call.into or not call.op.outputs or _is_extra(call):
                continue
            self._place(call, position, returned)

    def _release(self, position: int) -> None:
        for entry in [e for e in self.busy if e[0] < position]:
            self.busy.remove(entry)
            self.free.setdefault(entry[1], []).append(entry[2])

    def _place(self, call: calls.Call, position: int, returned: set[Any]) -> None:
        taken: list[Any] = []
        memories = []
        for index, value in enumerate(call.outputs):
            last = max(self.memory.last_use(value), position)
            if value in returned:
                memories.append(self._buffer(call, value.type, None))
                continue
            over = self._input_to_write(call, index, position, taken)
            if over is not None:
                taken.append(over)
                self._keep(over, last)
                self.storage_of[value] = self.storage_of[self.memory.root[over]]
                memories.append(over)
                continue
            storage = self._take(value.type)
            self.busy.append((last, value.type, storage))
            self.storage_of[value] = (value.type, storage)
            memories.append(self._buffer(call, value.type, storage))
        self._rebuild(call, memories)

    def _take(self, type: ir.Type) -> int:
        waiting = self.free.get(type)
        if waiting:
            return waiting.pop()
        self.count += 1
        return self.count - 1

    def _input_to_write(
        self, call: calls.Call, index: int, position: int, taken: list[Any]
    ) -> Any | None:
        """An input whose memory the output may take: planned here, and dead afterwards."""
        if not self.in_place:
            return None
        for name in call.op.outputs[index].may_be:
            place = next(i for i, t in enumerate(call.op.inputs) if t.name == name)
            value = call.inputs[place]
            if value is None or value in taken or value.type != call.outputs[index].type:
                continue
            root = self.memory.root[value]
            others = [v for v in call.inputs if v is not None and self.memory.root[v] == root]
            if len(others) != 1 or root not in self.storage_of or value != root:
                continue
            if self.memory.last_use(value) == position:
                return value
        return None

    def _keep(self, value: Any, last: int) -> None:
        """The storage of a value stays busy for the one that is written over it."""
        type, storage = self.storage_of[self.memory.root[value]]
        self.busy = [e for e in self.busy if e[1:] != (type, storage)]
        self.busy.append((last, type, storage))

    def _buffer(self, call: calls.Call, type: ir.Type, storage: int | None) -> Any:
        i64 = ir.IntegerType.get_signless(64)
        marks = {} if storage is None else {STORAGE: ir.IntegerAttr.get(i64, storage)}
        with call.operation.location, ir.InsertionPoint(call.operation):
            made = ir.Operation.create("llm.buffer", results=[type], attributes=marks)
        return made.results[0]

    def _rebuild(self, call: calls.Call, memories: list[Any]) -> None:
        """The same call with memory for its outputs; its results take over from the old ones."""
        types = [value.type for value in call.outputs]
        with call.operation.location, ir.InsertionPoint(call.operation):
            new = calls.make(call.op, call.inputs, call.options, into=memories, types=types)
        for old, made in zip(call.operation.results, new.operation.results):
            self._rename(old, made)
            old.replace_all_uses_with(made)
        self.memory.move(new.operation, self.memory.at(call.operation))
        call.operation.operation.erase()

    def _rename(self, old: Any, new: Any) -> None:
        """Later questions are about the new value."""
        memory = self.memory
        root = memory.root.pop(old)
        members = memory.members.pop(root)
        members[members.index(old)] = new
        root = new if root == old else root
        memory.members[root] = members
        for member in members:
            memory.root[member] = root
        if old in self.storage_of:
            self.storage_of[new] = self.storage_of.pop(old)


def _is_return(operation: Any) -> bool:
    return str(operation.name) == "func.return"


def _is_extra(call: calls.Call) -> bool:
    return dialect.is_elementary(call.op.name)
