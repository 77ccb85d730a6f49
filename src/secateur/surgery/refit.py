"""Refit: fits a pruned network to the outputs of the unpruned one, in closed form and without labels.

Layer by layer, in the order of the forward pass, with X the inputs that a layer of the smaller network gets after the
layers before it were fitted, and R the original layer's output minus its own,

    min over D, b of  |D X + b - R|² + n λ s |D|²,    s = mean of the diagonal of the inputs' covariance,

and the layer gets the weights W + D, and b is added to its bias. λ pulls towards the current weights. Where a layer's
output is added to a residual stream, R is the difference of the whole sum, so that the branch compensates for the
stream. Axes: N samples, Q positions of each that are used, G groups, I inputs of an output, O outputs of a group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.core.borrowing import borrowed, eval_mode
from secateur.core.errors import RequestError, SecateurError
from secateur.core.progress import ProgressOption, announce, reported, track
from secateur.core.ranks import Ranks
from secateur.criteria.samples import Share
from secateur.data import ReferenceSet
from secateur.selection import Plan
from secateur.surgery.least_squares import Moments, Rows, add_to_weight, columns_of
from secateur.surgery.passes import Origin, Site, Watcher, channel_dim, discover, followed, projections
from secateur.surgery.pruning import add_bias
from secateur.surgery.targets import Goals, Positions, space_of

LAMBDAS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Values from which the best on held-out samples is chosen."""

_FEW_IMAGES, _DEFAULT_LAMBDA, _HELD_OUT = 10, 0.1, 5
"""With fewer samples none is held out, and λ is the default; otherwise every fifth sample is held out."""

_WIDE, _WIDEST = 1536, 8192
"""Numbers of inputs above which λ is chosen on a part of the rows, and above which only a part is fitted."""

_TRIED_ROWS, _MOST_VALUES = 2_000, 50_000_000
"""Rows of that part, and the number of values in the rows of the widest layers."""

_CHUNK = 4096

_MEMORY, _COPIES = 4 * 2**30, 4
"""Bytes that a pass of all samples may use, and copies of the largest inputs and outputs that it holds."""


@dataclass(frozen=True)
class LayerFit:
    """The refit of one layer.

    Attributes:
        layer: its name.
        strength: λ; None: only the bias changed, or nothing.
        before: mean squared difference from the original's output, divided by its variance, before the refit.
        mean: the same with the mean difference added to the bias.
        after: the same after the refit; all three on held-out samples where there are enough of them.
        summed: whether the output was fitted within a sum.
        reason: why the layer was not refitted; "" where it was.
    """

    layer: str
    strength: float | None = None
    before: float = 0.0
    mean: float = 0.0
    after: float = 0.0
    summed: bool = False
    reason: str = ""


@reported("refitting what stays")
def refit(
    slim: nn.Module,
    model: nn.Module,
    plan: Plan,
    reference: ReferenceSet,
    *,
    strength: float | None = None,
    batch_size: int = 64,
    progress: ProgressOption = True,
) -> tuple[LayerFit, ...]:
    """Fit the layers of a pruned network to the outputs of the unpruned one, in place, without labels.

    Linear layers and convolutions of all kinds that run PyTorch's code are refitted; others stay as they are, with the
    reason. Batch norms after a refitted layer get the statistics of their new inputs, and scales and shifts that keep
    the function, so that training mode starts from the same function. All samples pass the smaller network in one
    batch; where that would need more than 4 GiB, an evenly spaced part of them is used. With several ranks, each
    processes its share of the samples; layers are fitted to the sums over all ranks.

    Args:
        slim: ``prune(model, plan)``; changed in place.
        model: the network before pruning; it is not changed.
        plan: the plan with which it was pruned.
        reference: samples; their labels are not used.
        strength: λ; None: chosen for each layer on every fifth sample, which is held out; a layer that is not better
            there than with only the mean difference added to its bias gets only that.
        batch_size: samples per pass of the unpruned network.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Returns:
        One record for each layer, in the order of the forward pass.

    Raises:
        RequestError: for a strength that is not positive, or samples that the network does not accept.
        SecateurError: for inputs of a layer that are not finite.

    Example:
        >>> import numpy as np
        >>> import secateur as sc
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> reference = ReferenceSet(torch.randn(40, 4), torch.zeros(40, dtype=torch.long), tuple(range(40)))
        >>> plan = Plan.of(sc.trace(net, torch.zeros(1, 4)), np.arange(8) < 6, {}, "by hand", "none")
        >>> fits = refit(sc.prune(net, plan), net, plan, reference)
        >>> [(fit.layer, fit.after <= fit.mean) for fit in fits]
        [('0', True), ('2', True)]
    """
    if strength is not None and not (strength > 0 and math.isfinite(strength)):
        raise RequestError(f"strength is the λ of a ridge regression and must be above 0, got {strength}")
    kept = {_layer_of(cut.tensor): torch.from_numpy(cut.kept()) for cut in plan.cuts if cut.role == "out"}
    device = next(model.parameters()).device
    with borrowed(model), eval_mode(slim), torch.no_grad():
        known = discover(model, reference.inputs[:2].to(device))
        reference = _fitting_in_memory(reference, known)
        sites = {name: site for name, site in known.items() if not site.reason}
        share = Share.of(reference)
        goals = Goals(sites, kept, len(reference), share.first)
        with followed(model, goals):
            for inputs, _ in track(list(share.samples.batches(batch_size)), "batches of the unpruned network"):
                model(inputs.to(device))
        fitting = _Fitting(slim, sites, goals, strength, share.ranks)
        with followed(slim, fitting):
            slim(share.samples.inputs.to(next(slim.parameters()).device))
    return tuple(
        fitting.done.get(name, LayerFit(name, reason=site.reason or "it was not reached in this pass"))
        for name, site in known.items()
    )


def _fitting_in_memory(reference: ReferenceSet, sites: dict[str, Site]) -> ReferenceSet:
    """As many samples as fit into memory in one pass, evenly spaced."""
    largest = max((site.size for site in sites.values()), default=0)
    most = max(_FEW_IMAGES, _MEMORY // max(1, _COPIES * largest))
    if len(reference) <= most:
        return reference
    announce(f"refitting on {most:,} of {len(reference):,} samples, which take {_MEMORY / 2**30:.0f} GiB of memory")
    rows = torch.arange(most) * len(reference) // most
    indices = tuple(reference.indices[row] for row in rows.tolist())
    return ReferenceSet(reference.inputs[rows], reference.targets[rows], indices, reference.bounds)


def _layer_of(tensor: str) -> str:
    """The layer of a weight: ``conv1`` of ``conv1.weight``, ``attn.in_proj`` of ``attn.in_proj_weight``."""
    return tensor.removesuffix("weight").rstrip("._")


class _Fitting(Watcher):
    """Refits each layer of the smaller network when the pass reaches it, and continues with its new output."""

    def __init__(
        self, slim: nn.Module, sites: dict[str, Site], goals: Goals, strength: float | None, ranks: Ranks
    ) -> None:
        self._slim, self._sites, self._goals, self._strength, self._ranks = slim, sites, goals, strength, ranks
        self._projections = projections(slim)
        self._inputs: dict[str, torch.Tensor] = {}
        self.done: dict[str, LayerFit] = {}

    def layer(self, name: str, module: nn.Module, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor | None:
        """See `Watcher`."""
        site = self._sites.get(name)
        if site is None:
            return None
        if site.chain is not None:  # it is refitted when its sum is computed
            self._inputs[name] = x.clone()  # the sum may be written into it
            return None
        goal = self._goals.rows(name)
        if goal is None:
            return None
        rows = self._rows_of(name, output, channel_dim(module), goal)
        if rows is None:
            return None
        if not self._fit(name, module, x, goal - rows, goal, summed=False):
            return None
        return self._again(name, module, x)

    def sum(self, origin: Origin, whole: torch.Tensor, other: torch.Tensor) -> torch.Tensor | None:
        """See `Watcher`."""
        name, x = origin.layer, self._inputs.pop(origin.layer, None)
        goal = None if x is None or self._sites[name].chain != origin.chain else self._goals.rows(name)
        if x is None or goal is None:
            return None
        module = self._projections.get(name) or self._slim.get_submodule(name)
        dim = channel_dim(module)
        chain = [self._slim.get_submodule(link) for link in origin.chain]
        scale = _scale(chain, whole, dim)
        rows = self._rows_of(name, whole, dim, goal)
        if rows is None:
            return None
        lacking = goal - rows
        nonzero = scale.abs() > 1e-6 * scale.abs().max()
        residual = torch.where(nonzero, lacking / torch.where(nonzero, scale, 1.0), 0.0)
        if not self._fit(name, module, x, residual, goal, summed=True):
            return None
        branch = self._again(name, module, x)
        for link in chain:
            branch = link.forward(branch)
        return branch + other

    def _rows_of(self, name: str, output: torch.Tensor, dim: int, goal: torch.Tensor) -> torch.Tensor | None:
        """The output at the positions of the goal; None where these, or the channels that stay, are not known."""
        positions = self._goals.positions[name]
        reason = "some of its outputs' positions were removed, too"
        if space_of(output, dim) == positions.space:
            rows = positions.rows(output, dim, 0)
            if rows.shape == goal.shape:
                return rows
            reason = "it is not known which channels of the original's output stay"
        self.done[name] = LayerFit(name, reason=reason)
        return None

    def _again(self, name: str, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """The layer's new output; its batch norm gets the statistics of it, and still computes the same."""
        output: torch.Tensor = module.forward(x)
        norm = self._sites[name].norm
        if norm is not None:
            _with_true_statistics(self._slim.get_submodule(norm), output, self._ranks)
        return output

    def _fit(
        self, name: str, module: nn.Module, x: torch.Tensor, residual: torch.Tensor, goal: torch.Tensor, *, summed: bool
    ) -> bool:
        """Refit the layer; return whether it changed."""
        fitted, held, final = self._sums(name, module, x, residual)
        if not (math.isfinite(fitted.error(None, None)) and bool(x.isfinite().all())):
            raise SecateurError(f"inputs or outputs of layer '{name}' are not finite; the refit stops there")
        test = held if held.count else fitted
        base = test.error(None, None)
        variance = float(self._mean(name, (goal.double() - self._mean(name, goal)).square()).mean())
        unit = max(variance * test.count * goal.shape[-1], 1e-300)
        mean = test.error(None, fitted.mean())
        grid = LAMBDAS if self._strength is None else (self._strength,)
        if self._strength is None and not held.count:
            grid = (_DEFAULT_LAMBDA,)
        tried = {strength: test.error(*fitted.solve(strength)) for strength in grid}
        best = min(tried, key=tried.__getitem__)
        record = LayerFit(name, None, base / unit, mean / unit, base / unit, summed)
        if tried[best] < min(mean, base):
            change, bias = final.solve(best)
            add_to_weight(module, change)
            self._add_to_bias(name, module, bias)
            self.done[name] = replace(record, strength=best, after=tried[best] / unit)
            return True
        if mean < base:
            self._add_to_bias(name, module, self._mean(name, residual))
            self.done[name] = replace(record, after=mean / unit)
            return True
        self.done[name] = record
        return False

    def _mean(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Mean over the rows [items, positions, channels] of all ranks, of which each passes its own, [channels]."""
        positions = self._goals.positions[name]
        return self._ranks.total(rows.double().sum((0, 1))) / (positions.item * positions.count)

    def _sums(
        self, name: str, module: nn.Module, x: torch.Tensor, residual: torch.Tensor
    ) -> tuple[Moments | Rows, Moments | Rows, Moments | Rows]:
        """Sums over the fitted samples, over the held-out samples, and those for the final fit."""
        inputs = math.prod(module.get_parameter("weight").shape[1:])
        if isinstance(module, _ConvTransposeNd):
            inputs = module.in_channels // module.groups * math.prod(module.kernel_size)
        rows = self._goals.positions[name].item * self._goals.positions[name].count
        if inputs <= _WIDE and inputs <= rows:
            fitted, held = Moments(), Moments()
            for columns, lacking, out, _ in self._chunks(name, module, x, residual):
                for moments, which in ((fitted, ~out), (held, out)):
                    moments.add(columns[which], lacking[which])
            fitted, held = fitted.of_all(self._ranks), held.of_all(self._ranks)
            return fitted, held, fitted + held
        narrow = rows < inputs or inputs > _WIDEST
        most = max(2, _MOST_VALUES // inputs) if narrow else _TRIED_ROWS
        tried, tested = self._rows(name, module, x, residual, most)
        if narrow:
            return tried, tested, tried + tested
        final = Moments()
        for columns, lacking, _, _ in self._chunks(name, module, x, residual):
            final.add(columns, lacking)
        return tried, tested, final.of_all(self._ranks)

    def _rows(
        self, name: str, module: nn.Module, x: torch.Tensor, residual: torch.Tensor, most: int
    ) -> tuple[Rows, Rows]:
        """At most ``most`` rows, evenly spaced among all of them: fitted and held-out ones."""
        positions = self._goals.positions[name]
        every = math.ceil(positions.item * positions.count / most)
        step = _items_per_chunk(positions)
        parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for columns, lacking, out, items in self._chunks(name, module, x, residual):
            # by the row's number over all ranks, with an offset of one row from chunk to chunk
            within = ((items % step)[:, None] * positions.count + torch.arange(positions.count)).flatten()
            chunk = (items // step).repeat_interleave(positions.count)
            some = ((within - chunk) % every == 0).to(out.device)
            parts.append((columns[some], lacking[some], out[some]))
        columns, lacking, out = (torch.cat(part) for part in zip(*parts, strict=True))
        fitted, held = Rows(columns[~out], lacking[~out]), Rows(columns[out], lacking[out])
        return fitted.of_all(self._ranks), held.of_all(self._ranks)

    def _chunks(
        self, name: str, module: nn.Module, x: torch.Tensor, residual: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """In chunks: inputs [rows, G, I], residuals [rows, G, O], whether the row's sample is held out, and items.

        Items are numbered over all ranks.
        """
        positions, items = self._goals.positions[name], self._sites[name].items
        few = positions.item < _FEW_IMAGES * items
        step = _items_per_chunk(positions)
        for begin in range(0, len(residual), step):
            end = min(begin + step, len(residual))
            columns = columns_of(module, x[begin:end], positions.index(begin, end).to(x.device))
            if columns.dtype in (torch.float16, torch.bfloat16):  # too imprecise for sums
                columns = columns.float()
            lacking = residual[begin:end].to(columns.dtype).unflatten(-1, (_groups(module), -1))
            numbers = torch.arange(positions.first + begin, positions.first + end)
            out = (numbers // items) % _HELD_OUT == _HELD_OUT - 1
            out = (out & (not few)).to(x.device).repeat_interleave(positions.count)
            yield columns.flatten(0, 1), lacking.flatten(0, 1), out, numbers

    def _add_to_bias(self, name: str, module: nn.Module, bias: torch.Tensor) -> None:
        flat, norm = bias.flatten(), self._sites[name].norm
        own = module._parameters.get("bias")
        if own is not None:
            own.add_(flat.to(own))
        elif norm is not None:
            mean = self._slim.get_submodule(norm).get_buffer("running_mean")
            mean.sub_(flat.to(mean))
        else:
            add_bias(module, flat)


def _items_per_chunk(positions: Positions) -> int:
    return max(1, _CHUNK // positions.count)


def _groups(module: nn.Module) -> int:
    return module.groups if isinstance(module, _ConvNd) else 1


def _scale(chain: list[nn.Module], like: torch.Tensor, dim: int) -> torch.Tensor:
    """Factor by which modules scale each channel, [channels]."""
    shape = [2] + [1] * (like.ndim - 1)
    shape[dim] = like.shape[dim]
    probe = torch.zeros(shape, dtype=like.dtype, device=like.device)
    probe[1] = 1
    for link in chain:
        probe = link.forward(probe)
    return (probe[1] - probe[0]).flatten()


def _with_true_statistics(norm: nn.Module, output: torch.Tensor, ranks: Ranks) -> None:
    """Set a norm's running statistics to those of its inputs; scale and shift keep its function in eval mode."""
    assert isinstance(norm, _BatchNorm)
    if (
        not norm.affine
        or norm.running_mean is None
        or norm.running_var is None
        or (output.shape[0] < 2 and not ranks.several)
    ):
        return
    dims = [dim for dim in range(output.ndim) if dim != 1]
    values, shape = output.double(), [1, -1] + [1] * (output.ndim - 2)
    count = ranks.total(torch.tensor([output.numel() // output.shape[1]], dtype=torch.float64, device=output.device))
    mean = ranks.total(values.sum(dims)) / count
    var = ranks.total((values - mean.reshape(shape)).square().sum(dims)) / (count - 1)
    before, scale = norm.running_mean.double(), norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    norm.weight.copy_((scale * (var + norm.eps).sqrt()).to(norm.weight))
    norm.bias.add_((scale * (mean - before)).to(norm.bias))
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
