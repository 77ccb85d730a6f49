"""Comparison of two networks on the same calls: every tensor of their outputs, and the calls that they refuse."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from secateur.core.borrowing import borrowed
from secateur.core.errors import RequestError, SecateurError
from secateur.core.html import table_html
from secateur.structure.base import tensors_in
from secateur.structure.calls import tensors_of, walk
from secateur.structure.tracing import Call

LIMITS = {torch.float64: 1e-6, torch.complex128: 1e-6, torch.float16: 1e-2, torch.bfloat16: 1e-2}
_LIMIT = 1e-3
"""Largest difference relative to an output's largest value; sums of fewer terms are rounded differently."""


@dataclass(frozen=True)
class OutputDifference:
    """One tensor that both networks return in a call.

    Attributes:
        call: name of the call.
        output: path of the tensor in the output; empty where it is the output.
        difference: largest absolute difference; scale: largest absolute value of the expected tensor.
        limit: the largest difference at which both are taken to compute the same.
        problem: where there is no difference to report, why: the pruned network fails, or returns something else.
        refused: why the pruned network refuses the call, in one line.
    """

    call: str
    output: str
    difference: float = 0.0
    scale: float = 0.0
    limit: float = 0.0
    problem: str = ""
    refused: str = ""

    @property
    def ok(self) -> bool:
        """Whether both compute the same, or the call is refused."""
        return not self.problem and self.difference <= self.limit

    def __str__(self) -> str:
        where = f"{self.call}, {self.output}" if self.output else self.call
        if self.refused:
            return f"{where}: refused: {self.refused}"
        if self.problem:
            return f"{where}: {self.problem}"
        return f"{where}: difference {self.difference:.2g} of {self.scale:.2g}"


@dataclass(frozen=True, repr=False)
class Verification:
    """Result of comparing a pruned network with the masked one.

    Attributes:
        outputs: one row per call and tensor.
        skipped: what was not compared, with the reason.
    """

    outputs: tuple[OutputDifference, ...]
    skipped: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no output differs; calls may be refused."""
        return all(row.ok for row in self.outputs)

    @property
    def wrong(self) -> tuple[OutputDifference, ...]:
        """Outputs that differ."""
        return tuple(row for row in self.outputs if not row.ok)

    @property
    def refused(self) -> tuple[OutputDifference, ...]:
        """Calls that the pruned network refuses."""
        return tuple(row for row in self.outputs if row.refused)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.outputs), *(f"not compared: {reason}" for reason in self.skipped)])

    def __repr__(self) -> str:
        said = "no output differs" if self.ok else f"{len(self.wrong)} differ, first {self.wrong[0]}"
        return (
            f"Verification({len(self.outputs)} outputs compared: {said}; {len(self.refused)} calls refused, "
            f"{len(self.skipped)} not compared)"
        )

    def _repr_html_(self) -> str:
        """A table with one row per output as HTML, for notebooks."""
        rows = [
            (row.call, row.output, str(row).partition(": ")[2], "ok" if row.ok else "differs") for row in self.outputs
        ]
        rows += [("", "", reason, "not compared") for reason in self.skipped]
        return table_html(("call", "output", "comparison", ""), rows, repr(self))


def compare_calls(slim: nn.Module, masked: nn.Module, calls: Sequence[tuple[str, Call]]) -> Verification:
    """Compare both networks in eval mode on the same calls.

    Args:
        slim: the pruned network.
        masked: the network to compare it with.
        calls: pairs of a name for the report and the call.
    """
    rows: list[OutputDifference] = []
    skipped: list[str] = []
    for name, call in calls:
        expected, drawn = _ran(masked, call)
        if isinstance(expected, Exception):
            skipped.append(f"{name}: the network itself fails ({_line(expected)})")
            continue
        of_call = _rows(name, _ran(slim, call)[0], expected)
        if drawn and not all(row.ok for row in of_call):
            skipped.append(f"{name}: {RANDOM}")  # a smaller network draws fewer random numbers
        else:
            rows += of_call
    return Verification(tuple(rows), tuple(skipped))


RANDOM = "the network draws random numbers"


def compare_in_training(slim: nn.Module, masked: nn.Module, name: str, call: Call) -> Verification:
    """Compare both networks in training mode without dropout, unless that draws random numbers."""
    expected, drawn = _ran(masked, call, training=True)
    if isinstance(expected, Exception):
        return Verification((), (f"{name}: the network itself fails ({_line(expected)})",))
    if drawn:
        return Verification((), (f"{name}: {RANDOM}",))
    return Verification(tuple(_rows(name, _ran(slim, call, training=True)[0], expected)))


def joined(*parts: Verification) -> Verification:
    """Several verifications as one."""
    return Verification(
        tuple(row for part in parts for row in part.outputs), tuple(reason for part in parts for reason in part.skipped)
    )


def _rows(name: str, result: Any, expected: Any) -> list[OutputDifference]:
    if isinstance(result, SecateurError):
        return [OutputDifference(name, "", refused=str(result))]
    if isinstance(result, Exception):
        return [OutputDifference(name, "", problem=f"the pruned network does not run ({_line(result)})")]
    ours, theirs = (dict(walk(given, caches=False)) for given in (result, expected))
    if ours.keys() != theirs.keys():
        other = min(ours.keys() ^ theirs.keys())
        return [OutputDifference(name, other, problem="only one of the networks returns it")]
    return [_difference(name, output, ours[output], tensor) for output, tensor in theirs.items()]


def _difference(name: str, output: str, tensor: torch.Tensor, expected: torch.Tensor) -> OutputDifference:
    if expected.is_nested and tensor.is_nested:
        tensor, expected = tensor.to_padded_tensor(0.0), expected.to_padded_tensor(0.0)
    if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
        about = [f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in (tensor, expected)]
        return OutputDifference(name, output, problem=f"the pruned network returns {about[0]}, not {about[1]}")
    if not expected.numel():
        return OutputDifference(name, output)
    numbers = expected.is_floating_point() or expected.is_complex()
    a, b = (t.detach() if numbers else t.detach().to(torch.float64) for t in (tensor, expected))
    same = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(same, torch.zeros_like(a), a - b).abs()
    apart = apart.nan_to_num(float("inf"), float("inf")).to(torch.float64)
    finite = b[b.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    limit = LIMITS.get(expected.dtype, _LIMIT) * scale + 1e-6 if numbers else 0.0
    return OutputDifference(name, output, float(apart.max()), scale, limit)


def _ran(model: nn.Module, call: Call, training: bool = False) -> tuple[Any, bool]:
    """The output of a network, or the exception that it raises; and whether it draws random numbers."""
    args, kwargs = copied(call)
    restored, plain = _parameters_kept(model, training), _NoDropout() if training else contextlib.nullcontext()
    with borrowed(model), restored, torch.no_grad(), torch.random.fork_rng(devices=[]), plain:
        torch.manual_seed(0)
        if training:
            model.train()
        before = _random_state(model)
        try:
            given: Any = model(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the user's own code may raise anything; it is reported
            given = error
        return given, any(not torch.equal(a, b) for a, b in zip(before, _random_state(model), strict=True))


class _NoDropout(TorchFunctionMode):
    """Turns dropout into the identity, which it is on average, within the context."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if "dropout" in name and args and isinstance(args[0], torch.Tensor):
            return args[0]
        if name == "scaled_dot_product_attention":
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs |= {"dropout_p": 0.0} if "dropout_p" in kwargs else {}
        return func(*args, **kwargs)


@contextlib.contextmanager
def _parameters_kept(model: nn.Module, training: bool) -> Iterator[None]:
    """Restore parameters that a pass in training mode updates (moving averages of others)."""
    before = [(p, p.detach().clone()) for p in model.parameters()] if training else []
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in before:
                parameter.copy_(value)


def _random_state(model: nn.Module) -> list[torch.Tensor]:
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


# -- calls -----------------------------------------------------------------------------------------------------------


def copied(call: Call) -> Call:
    """Copies of arguments, which a pass may change."""
    return tuple(map(_copy, call[0])), {name: _copy(value) for name, value in call[1].items()}


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if type(value) in (tuple, list):
        return type(value)(_copy(item) for item in value)
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    held = {id(tensor): tensor.detach().clone() for tensor in tensors_of(value)}
    if not held and not hasattr(value, "__dict__"):
        return value
    try:
        return copy.deepcopy(value, held)
    except TypeError as error:
        raise RequestError(f"a {type(value).__name__} among the arguments cannot be copied for a check") from error


def random_call(call: Call, batch: int, seed: int = 0) -> Call | None:
    """A call with random values for a number of samples; None where arguments are objects that hold tensors.

    Floating-point numbers are drawn from the normal distribution with the example's mean and standard deviation, all
    others from the example's values.
    """
    sizes = [int(t.shape[0]) for t in tensors_in(call) if t.ndim]
    if any(tensors_of(value) and not list(tensors_in(value)) for value in (*call[0], *call[1].values())):
        return None
    generator = torch.Generator().manual_seed(seed)

    def drawn(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            shape = [batch, *value.shape[1:]] if value.ndim and value.shape[0] == sizes[0] else list(value.shape)
            return _draw(value.detach(), shape, generator)
        if type(value) in (tuple, list):
            return type(value)(drawn(item) for item in value)
        if isinstance(value, Mapping):
            return {key: drawn(item) for key, item in value.items()}
        return value

    return tuple(map(drawn, call[0])), {name: drawn(value) for name, value in call[1].items()}


def _draw(value: torch.Tensor, shape: list[int], generator: torch.Generator) -> torch.Tensor:
    if not value.numel():
        return value.clone()
    if value.is_complex():
        parts = [_draw(part, shape, generator) for part in (value.real, value.imag)]
        return torch.complex(*parts).to(value.dtype)
    if value.is_floating_point():
        finite = value[value.isfinite()].double()
        mean, spread = (float(finite.mean()), float(finite.std(correction=0))) if finite.numel() else (0.0, 1.0)
        numbers = torch.randn(shape, generator=generator, dtype=torch.float64) * (spread or 1.0) + mean
        return numbers.to(value.device, value.dtype)
    index = torch.randint(value.numel(), shape, generator=generator).to(value.device)
    return value.reshape(-1)[index]


def example_of(described: Any, like: torch.Tensor) -> Any:
    """Random inputs of the shapes and types with which a network was traced.

    Raises:
        RequestError: where it took anything but tensors and plain values.
    """
    if isinstance(described, dict) and "shape" in described:
        dtype = getattr(torch, described["dtype"])
        if dtype.is_floating_point or dtype.is_complex:
            dtype = like.dtype if dtype.is_floating_point and like.is_floating_point() else dtype
            drawn = torch.rand(described["shape"], generator=torch.Generator().manual_seed(0))
            return drawn.to(device=like.device, dtype=dtype)
        return torch.zeros(described["shape"], dtype=dtype, device=like.device)
    if isinstance(described, dict) and "other" in described:
        raise RequestError(
            f"the network takes a {described['other']}; give prune(..., example_inputs=...) to check the result with"
        )
    if isinstance(described, dict):
        return {key: example_of(value, like) for key, value in described["dict"].items()}
    if not isinstance(described, list):
        return described
    return [example_of(value, like) for value in described]
