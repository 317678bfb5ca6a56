"""A workflow in the API format as data: its nodes, where their wires lead, and what the pack's nodes are told, checked.

It may come from anywhere. What is asked of it raises ``HyVideoError``, which names the node, for what is not as it
should be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.latest import io

from hyvideo_core.errors import HyVideoError

from .names import FileNames

#: The host's nodes that hold one value, under this name.
PRIMITIVES, PRIMITIVE_VALUE = ("PrimitiveInt", "PrimitiveFloat", "PrimitiveString", "PrimitiveBoolean"), "value"
#: Types of inputs with a value of their own, and what Python calls those.
PLAIN = {io.Int.Input: (int,), io.Float.Input: (int, float), io.Boolean.Input: (bool,), io.String.Input: (str,)}
#: Characters of a value, and entries of a list, that an error shows.
SHOWN, ENTRIES_SHOWN = 80, 4

NodeClasses = Mapping[str, type[io.ComfyNode]]


class MissingFile(HyVideoError):
    """A node's file is not there: ``file`` by its name, and the ``folder`` that it belongs into, as ``models/vae``."""

    def __init__(self, where: str, file: str, folder: str) -> None:
        super().__init__(
            f"{where} is {shown(file)}, which is not in its list. Put the file into {folder} and press R to "
            "refresh the lists, or choose another."
        )
        self.file, self.folder = _shortened(file), folder


class Workflow:
    """The nodes of a workflow by id, as ``/prompt`` takes them; ``classes`` are those whose values can be read."""

    def __init__(self, prompt: object, classes: NodeClasses) -> None:
        self._nodes: dict[str, Mapping[str, Any]] = {}
        self._classes = classes
        if not isinstance(prompt, Mapping) or not prompt:
            raise HyVideoError(f"prompt is {shown(prompt)}, but must be a workflow in the API format: nodes by id.")
        for name, node in prompt.items():
            kind, inputs = (node.get("class_type"), node.get("inputs")) if isinstance(node, Mapping) else (None, None)
            if not isinstance(kind, str) or not isinstance(inputs, Mapping):
                raise HyVideoError(
                    f"node {name} is {shown(node)}, but must have class_type and inputs. Export the workflow in the "
                    "API format."
                )
            self._nodes[str(name)] = node
        self._takers: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for name, node in self._nodes.items():
            for field, value in node["inputs"].items():
                if is_link(value) and value[1] == 0:
                    self._takers[str(value[0])].append((name, field))

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def of_kind(self, kind: str) -> list[str]:
        """The ids of all nodes of a kind."""
        return [name for name in self._nodes if self.kind(name) == kind]

    def kind(self, name: str) -> str:
        """The class of a node."""
        return self._nodes[name]["class_type"]

    def node_class(self, name: str) -> type[io.ComfyNode] | None:
        """The pack's class of a node; None for a node of others."""
        return self._classes.get(self.kind(name))

    def inputs(self, name: str) -> Mapping[str, Any]:
        """A node's inputs as they are given: values, and links as [id, slot]."""
        return self._nodes[name]["inputs"]

    def called(self, name: str) -> str:
        """A node as an error names it."""
        return f"node {name} ({self.kind(name)})"

    def source(self, name: str, field: str) -> str | None:
        """The node that an input is wired to; None if there is none."""
        link = self.inputs(name).get(field)
        return str(link[0]) if is_link(link) and str(link[0]) in self else None

    def takers(self, source: str) -> Sequence[tuple[str, str]]:
        """The nodes that take a node's first output, and their inputs that do."""
        return self._takers.get(source, ())

    def is_known(self, name: str, field: str) -> bool:
        """Whether an input has its value before anything runs."""
        return not is_link(self._value(self.inputs(name).get(field)))

    def takes_more(self, name: str, *, beside: str) -> bool:
        """Whether a node needs or is wired to what has no plain value, such as an image, at another input."""
        plain = {each.id for each in self._plain_inputs(name)}
        needed = {each.id for each in self._classes[self.kind(name)].define_schema().inputs if not each.optional}
        wired = {field for field, value in self.inputs(name).items() if is_link(value)}
        return bool((needed | wired) - plain - {beside})

    def values(self, name: str, *fields: str) -> dict[str, Any]:
        """A node's plain inputs, or only those named, checked as its schema says.

        Those that the node may do without only where they are given.
        """
        return {
            each.id: self._checked(name, each, each.id)
            for each in self._plain_inputs(name)
            if (not fields or each.id in fields) and (not each.optional or each.id in self.inputs(name))
        }

    def _plain_inputs(self, name: str) -> list[io.Input]:
        inputs = self._classes[self.kind(name)].define_schema().inputs
        return [each for each in inputs if isinstance(each, (*PLAIN, io.Combo.Input))]

    def choice(self, name: str, field: str) -> dict[str, Any]:
        """A dynamic choice with its own inputs, checked, as the node is given it."""
        schema = self._classes[self.kind(name)].define_schema()
        (combo,) = [each for each in schema.inputs if each.id == field]
        inner = {option.key: option.inputs for option in combo.options}
        where, value = self._given(name, field)
        chosen = _of_list(where, value, list(inner))
        return {field: chosen, **{each.id: self._checked(name, each, f"{field}.{each.id}") for each in inner[chosen]}}

    def _given(self, name: str, key: str) -> tuple[str, Any]:
        """An input as an error names it, and its value."""
        value, where = self._value(self.inputs(name).get(key)), f"{self.called(name)}: {key}"
        if value is None:
            raise HyVideoError(f"{where} is missing. Give it a value.")
        if is_link(value):
            raise HyVideoError(f"{where} is wired to a node and known only when that has run. Give it a value.")
        return where, value

    def _checked(self, name: str, field: io.Input, key: str) -> Any:
        where, value = self._given(name, key)
        if isinstance(field, io.Combo.Input):
            return _of_list(where, value, field.options)
        types = next(types for kind, types in PLAIN.items() if isinstance(field, kind))
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise HyVideoError(f"{where} is {shown(value)}, but must be of type {field.get_io_type()}.")
        # NaN lies between nothing.
        if isinstance(field, io.Int.Input | io.Float.Input) and not field.min <= value <= field.max:
            raise HyVideoError(f"{where} is {shown(value)}, but must lie between {field.min} and {field.max}.")
        return value

    def _value(self, value: Any) -> Any:
        """A value; where it is wired to a node that holds one, that one."""
        seen: set[str] = set()
        while is_link(value) and str(value[0]) in self and str(value[0]) not in seen:
            seen.add(str(value[0]))
            if self.kind(str(value[0])) not in PRIMITIVES:
                break
            value = self.inputs(str(value[0])).get(PRIMITIVE_VALUE)
        return value


def _of_list(where: str, value: Any, options: Sequence[str]) -> str:
    if isinstance(value, str) and value in options:
        return value
    if isinstance(value, str) and isinstance(options, FileNames):
        raise MissingFile(where, value, options.folder)
    some = ", ".join([*options[:ENTRIES_SHOWN], *(["…"] if len(options) > ENTRIES_SHOWN else [])])
    raise HyVideoError(f"{where} is {shown(value)}, which is not in its list ({some}). Choose another.")


def is_link(value: Any) -> bool:
    """Whether an input's value is [id, slot] of another node's output."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    return isinstance(value[0], str | int) and isinstance(value[1], int)


def shown(value: Any) -> str:
    """A value as an error shows it: no more of it than tells what it is."""
    return _shortened(repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
