"""Exported programs (``.pt2``) as networks whose layers can be pruned and explained.

A program is a flat list of calls of PyTorch's operators. Each call becomes the layer from which it came, where its
parameters have the names of a layer's (``conv1.weight`` makes ``conv1`` a `torch.nn.Conv2d`), and a function of `torch`
otherwise; layers have the names that they had in the exported network. Operators that are not in the tables of
`secateur.models.operators` are refused: none of those in the tables reads or writes files, or runs code.
"""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from secateur.core.errors import RequestError
from secateur.models.operators import (
    ALIASES,
    DROPPED,
    EVAL,
    FIRST_ONLY,
    FUNCTIONS,
    METHODS,
    REWRITES,
    make_layer,
    plain_value,
)
from secateur.models.program_file import BadProgram, Program, read_program

_SYMBOL = re.compile(r"[A-Za-z]\w*", re.ASCII)
_EXPRESSION = re.compile(r"Symbol\('([A-Za-z]\w*)'(, \w+=(True|False))*\)|([A-Za-z]\w*)", re.ASCII)
_UNBOUNDED = 2**62
_TARGET = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_ARITHMETIC = re.compile(r"_operator\.(\w+)")


def open_program(path: str | Path) -> nn.Module:
    """The network of an exported program, in eval mode. Nothing in the file is unpickled or executed.

    A program that was exported for one batch size accepts others if samples get the same results in them, which is
    tested, and is refused otherwise. Inputs whose sizes differ from those that were fixed at export are refused when
    the network is called.

    Args:
        path: a ``.pt2`` file of `torch.export.save`, of a network in eval mode.

    Returns:
        A `torch.fx.GraphModule`.

    Raises:
        RequestError: for a file that is missing or broken, or holds pickles; for unknown operators; for a
            program that changes its buffers or inputs, such as one exported in training mode; for one that needs the
            batch size with which it was exported.
    """
    program = read_program(path)
    try:
        return _open(program)
    except BadProgram as error:
        raise RequestError(f"exported program '{path}': {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:  # a forged graph
        reason = (str(error).splitlines() or [""])[0][:200]
        raise RequestError(f"exported program '{path}' cannot be read ({type(error).__name__}: {reason})") from error


def _open(program: Program) -> nn.Module:
    inputs = _inputs(program)
    batch = _fixed_batch(inputs)
    model = _Builder(program, inputs, batch).build()
    if batch is not None and not _by_sample(model, inputs, batch):
        raise BadProgram(
            f"it was exported for batches of {batch}, and gives other results in others; export it with "
            "dynamic_shapes=({0: torch.export.Dim('batch')},)"
        )
    return model


class _Builder:
    """Builds a `torch.fx.GraphModule` from a program.

    ``batch`` is the batch size that was fixed at export and becomes free: sizes of this number that come first in views
    are read from the input. The caller has to check that this gives the same results.
    """

    def __init__(self, program: Program, inputs: Mapping[str, list[Any]], batch: int | None) -> None:
        self.program = program
        self.inputs = inputs
        self.batch = batch
        self.samples: fx.Node | None = None  # the size of the first input's first dimension
        self.moving: set[str] = set()  # values that depend on the inputs
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.values: dict[str, Any] = {}
        self.state: dict[str, str] = {}  # name in the graph of a parameter or buffer: its own name
        self.layers: dict[str, tuple[Any, ...]] = {}  # by path: its kind and options
        self.shares: dict[str, str] = {}  # views by the value whose memory they show

    def build(self) -> fx.GraphModule:
        graph, signature = self.program.graph, self.program.signature
        for spec in signature["output_specs"]:
            if "user_output" not in spec:
                raise BadProgram(f"it changes state ({next(iter(spec))}), as in training mode; {EVAL}")
        for value, spec in zip(graph["inputs"], signature["input_specs"], strict=True):
            self._input(value, spec)
        self._assertions()
        last = {name: position for position, node in enumerate(graph["nodes"]) for name in _names_in(node["inputs"])}
        last |= {name: len(graph["nodes"]) for value in graph["outputs"] for name in _names_in(value)}
        for position, node in enumerate(graph["nodes"]):
            self._node(node, position, last)
        outputs = [self._argument(value) for value in graph["outputs"]]
        if not outputs:
            raise BadProgram("it has no output")
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        network = fx.GraphModule(self.root, self.graph, class_name="ExportedNetwork")
        network.graph.eliminate_dead_code()
        network.graph.lint()
        network.recompile()
        return network.eval()

    def _input(self, value: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        kind, about = next(iter(spec.items()))
        names = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
        if kind in names:
            self.state[value["as_tensor"]["name"]] = about[names[kind]]
        elif kind == "user_input" and "as_tensor" in value:
            name = value["as_tensor"]["name"]
            self.values[name] = self.graph.placeholder(self._parameter(name))
            self.moving.add(name)
        elif kind != "constant_input" and "as_none" not in value:
            raise BadProgram("it takes something else than tensors")

    def _parameter(self, name: str) -> str:
        """A valid name for a parameter of ``forward``, because names become part of code."""
        plain = _SYMBOL.fullmatch(name) and not keyword.iskeyword(name) and name != "self"
        return name if plain else f"input_{len(self.values)}"

    def _assertions(self) -> None:
        """Checks that inputs have the sizes that were fixed when the program was exported."""
        symbols: dict[str, fx.Node] = {}
        if self.batch is not None:
            self.samples = self.graph.call_method("size", (self.values[next(iter(self.inputs))], 0))
        for name, sizes in self.inputs.items():
            x = self.values[name]
            free = ("any", *sizes[1:]) if self.batch is not None else sizes
            shape = ", ".join(str(size) if isinstance(size, int) else "any" for size in free)
            for dim, size in enumerate(sizes):
                if isinstance(size, int):
                    if dim or self.batch is None:
                        self._assert(x, dim, "eq", size, f"inputs of shape ({shape}) were fixed when it was exported")
                    continue
                if size in symbols:
                    self._assert(x, dim, "eq", symbols[size], f"dimension {dim} must have the size of an earlier one")
                else:
                    symbols[size] = self.graph.call_method("size", (x, dim))
                limits = self.program.ranges.get(size) or {}
                low, high = limits.get("min_val"), limits.get("max_val")
                if low is not None and 2 < low < _UNBOUNDED:
                    self._assert(x, dim, "ge", low, f"it was exported for at least {low} in dimension {dim}")
                if high is not None and high < _UNBOUNDED:
                    self._assert(x, dim, "le", high, f"it was exported for at most {high} in dimension {dim}")

    def _assert(self, x: fx.Node, dim: int, operator_name: str, other: Any, why: str) -> None:
        size = self.graph.call_method("size", (x, dim))
        holds = self.graph.call_function(FUNCTIONS[operator_name], (size, other))
        text = f"this exported program takes no other sizes: {why}; export it with dynamic_shapes"
        self.graph.call_function(torch._assert, (holds, text))

    def _node(self, node: Mapping[str, Any], position: int, last: Mapping[str, int]) -> None:
        target = str(node["target"])
        match = _TARGET.fullmatch(target) or _ARITHMETIC.fullmatch(target)
        operation = match[1] if match else ""
        in_place = operation.endswith("_") and not operation.startswith("_")
        plain = operation.rstrip("_") if in_place else operation
        if plain in DROPPED:
            return
        result = self._layer(plain, {item["name"]: item["arg"] for item in node["inputs"]})
        if result is None:
            positional = [self._argument(item["arg"]) for item in node["inputs"] if item.get("kind") != 2]
            keywords = {item["name"]: self._argument(item["arg"]) for item in node["inputs"] if item.get("kind") == 2}
            result = self._function(target, plain, self._let_go(node, plain, positional), keywords)
        if self.moving & set(_names_in(node["inputs"])):
            self.moving.update(_names_in(node["outputs"]))
        if plain in FIRST_ONLY:
            self.values[_names_in(node["outputs"])[0]] = result
        else:
            self._bind(node["outputs"], result)
        if plain in ALIASES or in_place:
            self._share(node, in_place, position, last)

    def _let_go(self, node: Mapping[str, Any], plain: str, arguments: list[Any]) -> list[Any]:
        """A call's arguments with the input's number of samples where the exported one is written as a size."""
        sizes = arguments[1] if len(arguments) > 1 else None
        if self.batch is None or not isinstance(sizes, list) or sizes[:1] != [self.batch]:
            return arguments
        depends = bool(self.moving & set(_names_in(node["inputs"][:1])))
        if plain == "expand" or (depends and plain in ("view", "reshape", "_unsafe_view")):
            return [arguments[0], [self.samples, *sizes[1:]], *arguments[2:]]
        return arguments

    def _function(self, target: str, plain: str, positional: list[Any], keywords: dict[str, Any]) -> Any:
        if plain in REWRITES:
            return REWRITES[plain](self.graph, *positional, **keywords)
        if plain in METHODS:
            return self.graph.call_method(METHODS[plain], tuple(positional), keywords)
        if plain not in FUNCTIONS:
            raise BadProgram(
                f"its operator '{target[:80]}' is not among those that can be read; open the network itself instead"
            )
        return self.graph.call_function(FUNCTIONS[plain], tuple(positional), keywords)

    def _layer(self, operation: str, arguments: Mapping[str, Any]) -> fx.Node | None:
        """A call as a layer, where its parameters have the names of a layer's and nothing else is under its path."""
        own = {
            key: self.state[value["as_tensor"]["name"]]
            for key, value in arguments.items()
            if key in ("weight", "bias", "running_mean", "running_var")
            and "as_tensor" in value
            and value["as_tensor"]["name"] in self.state
        }
        paths = {name.rpartition(".")[0] for name in own.values()}
        path = next(iter(paths), "")
        if len(paths) != 1 or not path or any(name != f"{path}.{key}" for key, name in own.items()):
            return None
        below = {name for name in self.state.values() if name.startswith(f"{path}.")}
        if below - {*own.values(), f"{path}.num_batches_tracked"}:
            return None
        source = arguments.get("input") or arguments.get("self") or {}
        if "as_tensor" not in source:
            return None
        rank = len(self.program.graph["tensor_values"][source["as_tensor"]["name"]]["sizes"])
        layer = make_layer(operation, arguments, {key: self.program.tensors[name] for key, name in own.items()}, rank)
        if layer is None:
            return None
        module, options = layer
        if self.layers.setdefault(path, options) != options:
            return None  # one set of parameters in two kinds of calls
        if not _has(self.root, path):
            _put(self.root, path, module)
        return self.graph.call_module(path, (self._argument(source),))

    def _argument(self, value: Mapping[str, Any]) -> Any:
        kind, content = next(iter(value.items()))
        if kind in ("as_tensor", "as_name"):
            return self._value(content["name"] if kind == "as_tensor" else content)
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool", "as_optional_tensor"):
            return self._argument(content)
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools", "as_optional_tensors"):
            return [self._argument(item) for item in content]
        if kind == "as_tensors":
            return [self._value(item["name"]) for item in content]
        return plain_value(kind, content)

    def _value(self, name: str) -> Any:
        if name in self.values:
            return self.values[name]
        path = self.state[name]
        if not _has(self.root, path):
            _put(self.root, path, self.program.tensors[path])
        return self.graph.get_attr(path)

    def _bind(self, outputs: Sequence[Mapping[str, Any]], result: Any) -> None:
        names = [name for value in outputs for name in _names_in(value)]
        if len(outputs) == 1 and "as_tensors" not in outputs[0]:
            self.values[names[0]] = result
            return
        for position, name in enumerate(names):
            self.values[name] = self.graph.call_function(operator.getitem, (result, position))

    def _share(self, node: Mapping[str, Any], in_place: bool, position: int, last: Mapping[str, int]) -> None:
        """Track shared memory: an in-place change affects all values that share it and are still used."""
        names = _names_in(node["inputs"][:1])
        if not names:
            return
        source = names[0]
        root = self.shares.get(source, source)
        if in_place:
            others = {name for name, of in self.shares.items() if of == root} | {root}
            if source in self.state:
                raise BadProgram(f"it changes '{self.state[source]}', as in training mode; {EVAL}")
            if any(last.get(name, -1) > position for name in others - {source}):
                raise BadProgram(f"it changes memory in place that other values show ('{node['target']}')")
            self.values[source] = self.values[_names_in(node["outputs"])[0]]
        for name in _names_in(node["outputs"]):
            self.shares[name] = root


def _names_in(value: Any) -> list[str]:
    """Names of values in a part of the graph."""
    if isinstance(value, list):
        return [name for item in value for name in _names_in(item)]
    if not isinstance(value, dict):
        return []
    if isinstance(value.get("as_tensor"), dict):
        return [str(value["as_tensor"]["name"])]
    if isinstance(value.get("as_name"), str):
        return [value["as_name"]]
    if isinstance(value.get("as_tensors"), list):
        return [str(item["name"]) for item in value["as_tensors"]]
    return [name for key, item in value.items() if key == "arg" or key.startswith("as_") for name in _names_in(item)]


def _inputs(program: Program) -> dict[str, list[Any]]:
    """Sizes of each input, in order: numbers, or names of symbols."""
    sizes: dict[str, list[Any]] = {}
    for value, spec in zip(program.graph["inputs"], program.signature["input_specs"], strict=True):
        if "user_input" in spec and "as_tensor" in value:
            name = value["as_tensor"]["name"]
            sizes[name] = [_size(size) for size in program.graph["tensor_values"][name]["sizes"]]
    if not sizes:
        raise BadProgram("it takes no tensor")
    return sizes


def _size(size: Mapping[str, Any]) -> Any:
    if "as_int" in size:
        return int(size["as_int"])
    text = str(size["as_expr"]["expr_str"])
    match = _EXPRESSION.fullmatch(text)
    if match is None:
        raise BadProgram(f"a size of its inputs is the expression '{text[:60]}'; export it with plain dynamic sizes")
    return match[1] or match[4]


def _fixed_batch(inputs: Mapping[str, list[Any]]) -> int | None:
    """The batch size that was fixed when the program was exported."""
    firsts = {sizes[0] if sizes else 0 for sizes in inputs.values()}
    first = next(iter(firsts))
    return first if len(firsts) == 1 and isinstance(first, int) and first > 0 else None


def _by_sample(model: nn.Module, inputs: Mapping[str, list[Any]], batch: int) -> bool:
    """Whether samples get the same results in larger batches as in batches of the exported size."""
    generator = torch.Generator().manual_seed(0)
    shapes = [[3 * batch, *(size if isinstance(size, int) else 32 for size in sizes[1:])] for sizes in inputs.values()]
    run = model.forward  # a call would print where it fails
    try:
        with torch.no_grad():
            whole = [torch.rand(shape, generator=generator) for shape in shapes]
            parts = [run(*(x[start : start + batch] for x in whole)) for start in range(0, 3 * batch, batch)]
            together = run(*whole)
            return isinstance(together, torch.Tensor) and torch.allclose(together, torch.cat(parts), 1e-3, 1e-5)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError):  # sizes that are written into the graph
        return False


def _has(root: nn.Module, path: str) -> bool:
    module: Any = root
    for part in path.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


def _put(root: nn.Module, path: str, item: nn.Module | torch.Tensor) -> None:
    """Register a module, parameter or buffer below ``root``, with modules for the parts of its path."""
    *parents, last = path.split(".")
    module = root
    for part in parents:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if isinstance(item, nn.Module):
        held = module._modules.get(last)
        if held is not None:
            raise BadProgram(f"'{path}' is a layer and holds others")
        module.add_module(last, item)
    elif isinstance(item, nn.Parameter):
        module.register_parameter(last, item)
    else:
        module.register_buffer(last, item)
