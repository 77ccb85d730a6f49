"""Relevance of inputs and units from one forward and one backward pass. Axes: N samples, K classes, U units."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn

from secateur.attribution import composites
from secateur.attribution.collect import Collector, Positions, UnitStatistics, added, not_finite
from secateur.attribution.composites import Composite, IntegratedGradients, SmoothGrad
from secateur.attribution.failures import failures_told
from secateur.attribution.layers import Observation
from secateur.attribution.names import At, Start
from secateur.attribution.relevance import Relevance
from secateur.attribution.starts import check_classes, logits_of, start_gradient
from secateur.attribution.watch import Watch
from secateur.core.borrowing import borrowed, check_values
from secateur.core.errors import RequestError, SecateurError, check_count
from secateur.core.modules import check_module
from secateur.core.progress import ProgressOption, reported, track
from secateur.core.randomness import derive_seed


@reported("attributing relevance")
def attribute(
    model: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor | Iterable[int],
    composite: str | Composite = "epsilon",
    *,
    start: Start | torch.Tensor | None = None,
    bounds: tuple[float, float] | None = None,
    positions: Positions = "sum",
    account: bool = False,
    batch_size: int = 64,
    progress: ProgressOption = True,
) -> Relevance:
    """Relevance of inputs and all units for the target logits, by rules (LRP) or by a gradient method.

    Args:
        model: a network that returns logits [N, K] (or an object or dictionary with ``logits``); its state is restored.
        inputs: inputs [N, ...], floating point.
        targets: class index of each sample, [N]. A network with one output f is a classifier of two: f is the log-odds
            of class 1, and -f those of class 0; to explain an output as it is, give class 1.
        composite: name or object, see `secateur.attribution.composites`.
        start: ``one``: relevance 1 at the target logit (default of rules); ``logit``: the logit's value (default of
            gradient methods, whose gradient is then the logit's); ``contrast``: the target logit less the mean of the
            others; ``loss``: the gradient of each sample's cross-entropy; or relevance of all logits, [N, K]. With one
            output f and s = 1 for class 1, -1 for class 0: the logit and the contrast are s·f, the loss is
            ln(1 + e^(-s·f)), and its gradient sigmoid(f) - class.
        bounds: lowest and highest possible input, for the z^B-rule; None: those of ``inputs``.
        positions: how a unit's positions (space or tokens) are combined: ``sum``, ``abs`` (sum of absolute values), or
            ``keep``.
        account: record the relevance that biases and constants absorb.
        batch_size: samples per pass; halved when memory does not suffice. The result does not depend on it.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for inputs or targets that do not fit, or an operation without a rule.
        SecateurError: when relevance is not finite, naming layer and sample.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
        >>> relevance = attribute(net, torch.rand(2, 4), [0, 2])
        >>> relevance.input.shape, sorted(relevance.units), relevance.input.sum(1).round(decimals=3).tolist()
        (torch.Size([2, 4]), ['0', '2'], [1.0, 1.0])
    """
    check_module(model)
    rules = composites.get(composite)
    labels = _targets(targets, inputs)
    check_values(model, gradients=True)
    inputs = inputs.detach()
    if bounds is None:
        bounds = (float(inputs.min()), float(inputs.max()))
    if isinstance(start, torch.Tensor) and start.shape[:1] != inputs.shape[:1]:
        raise RequestError(
            f"start relevance must be given per sample and class [{len(inputs)}, classes], got {list(start.shape)}"
        )
    job = _Job(model, rules, _started(start, rules), bounds, "makers", positions, account=account)
    parts = []
    with borrowed(model), failures_told(model, inputs, "the inputs"):
        for chunk in track(torch.arange(len(inputs)).split(_checked(batch_size)), "batches of inputs"):
            parts += _run(job, inputs, labels, chunk)
    names = parts[0].stats
    places = dict.fromkeys(name for p in parts for name in p.absorbed)
    absorbed = {n: torch.cat([p.absorbed.get(n, torch.zeros_like(p.start)) for p in parts]) for n in places}
    return Relevance(
        torch.cat([p.input for p in parts]),
        {name: torch.cat([p.stats[name].relevance for p in parts]) for name in names},
        torch.cat([p.logits for p in parts]),
        torch.cat([p.start for p in parts]),
        absorbed,
    )


def unit_statistics(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    composite: str | Composite | None,
    *,
    start: Start | None = None,
    bounds: tuple[float, float] | None = None,
    at: At = "readers",
    positions: Positions = "sum",
    constants: bool = False,
) -> dict[str, UnitStatistics]:
    """Per-sample unit statistics of every weighted layer, from one pass over the batches.

    At ``makers``, a layer's statistics are those of its outputs (after a batch norm that directly follows),
    [N, outputs]; at ``readers``, those of its inputs, with only the gradient through this layer, [N, inputs]. The
    pass ends at the first layers: their inputs are not observed.

    Args:
        model: a network that returns logits; its state is restored.
        batches: (inputs, targets) pairs.
        composite: rules of the backward pass; None: the plain gradient.
        start: see `attribute`.
        bounds: lowest and highest possible input, for the z^B-rule.
        at: where units are observed.
        positions: ``sum`` or ``abs``, see `attribute`.
        constants: also observe layers that do not depend on the inputs, such as those that produce position biases;
            every batch must then be one sample, because the outputs of such a layer belong to no single sample.

    Raises:
        RequestError: as `attribute`; and for larger batches with ``constants``.
    """
    rules = composites.get("gradient-input" if composite is None else composite)
    job = _Job(
        model, rules, _started(start, rules), bounds, at, positions, full=True, inputs=False, constants=constants
    )
    parts: list[_Pass] = []
    with borrowed(model):
        for x, y in batches:
            if constants and len(x) != 1:
                raise RequestError(f"constants=True needs one sample at a time, got a batch of {len(x)}")
            parts += _run(job, x, _targets(y, x, token_ids=rules.average is None), torch.arange(len(x)))
    if not parts:
        raise RequestError("there are no reference samples")
    widths = {name: width for p in parts for name, width in p.order.items() if width or name in p.stats}
    return {
        name: UnitStatistics(
            *(
                torch.cat([getattr(p.of(name, width), f) for p in parts])
                for f in ("relevance", "gradient", "activation")
            )
        )
        for name, width in widths.items()
    }


def _checked(batch_size: int) -> int:
    check_count("batch_size", batch_size)
    return batch_size


def _started(start: Start | torch.Tensor | None, composite: Composite) -> Start | torch.Tensor:
    if start is None:
        return "logit" if composite.choose is None else "one"
    if composite.average is not None and (isinstance(start, torch.Tensor) or start == "one"):
        raise RequestError(f"'{composite.name}' evaluates many inputs; start it with 'logit', 'contrast' or 'loss'")
    return start


def _targets(targets: torch.Tensor | Iterable[int], inputs: torch.Tensor, token_ids: bool = False) -> torch.Tensor:
    """Class indices as a tensor, after a check of targets and inputs.

    Args:
        targets: class indices of the samples.
        inputs: inputs of the network.
        token_ids: whether inputs may be integers.
    """
    if not isinstance(inputs, torch.Tensor):
        raise RequestError(
            f"inputs must be one tensor, samples first, got {type(inputs).__name__}; wrap the network in a module "
            "whose forward takes one tensor and makes the rest of it"
        )
    if not inputs.is_floating_point() and (not token_ids or inputs.dtype == torch.bool or inputs.is_complex()):
        raise RequestError(
            f"inputs must be floating point, got {inputs.dtype}; normalise images first; token ids have no relevance "
            "of their own: give their embeddings to the part of the network behind them "
            "(in transformers, a module whose forward calls model(inputs_embeds=x))"
        )
    if inputs.ndim == 0:
        raise RequestError("inputs must have samples as their first dimension, got a tensor without dimensions")
    if inputs.numel() == 0:
        raise RequestError(f"inputs are empty (shape {list(inputs.shape)}); give at least one sample")
    try:
        labels = torch.as_tensor(targets if isinstance(targets, torch.Tensor) else list(targets))
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"targets must be class indices, one integer per sample [{len(inputs)}], got {reprlib.repr(targets)}"
        ) from error
    hint = "; of one-hot labels, targets.argmax(1)" if labels.ndim == 2 and labels.shape[1] > 1 else ""
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise RequestError(f"targets must be integer class indices, got {labels.dtype}{hint}")
    labels = labels.to(device=inputs.device, dtype=torch.int64)
    if labels.shape != inputs.shape[:1]:
        image = inputs.ndim == 3 and labels.shape == (1,) and inputs.shape[0] in (1, 3, 4)
        hint = "; for one image, inputs.unsqueeze(0)" if image else hint
        raise RequestError(
            f"targets must be one class index per sample [{len(inputs)}], got shape {tuple(labels.shape)}{hint}"
        )
    return labels


@dataclass(frozen=True, eq=False)
class _Job:
    """What is computed for each batch."""

    model: nn.Module
    composite: Composite
    start: Start | torch.Tensor
    bounds: tuple[float, float] | None
    at: At
    positions: Positions
    full: bool = False
    account: bool = False
    inputs: bool = True
    constants: bool = False

    def collector(self, samples: int) -> Collector:
        return Collector(samples, self.positions, self.full, self.composite.gives == "gradient")


@dataclass(frozen=True, eq=False)
class _Pass:
    input: torch.Tensor
    logits: torch.Tensor
    start: torch.Tensor
    stats: dict[str, UnitStatistics]
    absorbed: dict[str, torch.Tensor]
    order: dict[str, int]

    def of(self, name: str, width: int) -> UnitStatistics:
        """A layer's statistics; zeros for a layer that no gradient reached, because the logits do not depend on it."""
        zeros = self.start.new_zeros(len(self.start), width)
        return self.stats.get(name, UnitStatistics(zeros, zeros, zeros))


def _run(job: _Job, inputs: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor) -> list[_Pass]:
    """The samples at ``positions`` in one pass, or in several when they do not fit into memory."""
    device = next((p.device for p in job.model.parameters()), inputs.device)
    rows = positions.to(inputs.device)
    try:
        # copies that can require gradients
        x, y = inputs[rows].detach().to(device), targets[rows].to(device)
        part = replace(job, start=job.start[positions.to(job.start.device)].to(device)) if isinstance(
            job.start, torch.Tensor
        ) else job  # fmt: skip
        if isinstance(job.composite.average, IntegratedGradients):
            return [_integrated(part, x, y, job.composite.average)]
        if isinstance(job.composite.average, SmoothGrad):
            return [_smoothed(part, x, y, job.composite.average)]
        return [_once(part, x, y)]
    except torch.OutOfMemoryError as error:
        if len(positions) == 1:
            raise SecateurError("one sample alone does not fit into memory; take a smaller network or input") from error
    half = len(positions) // 2
    return _run(job, inputs, targets, positions[:half]) + _run(job, inputs, targets, positions[half:])


def _once(job: _Job, x: torch.Tensor, y: torch.Tensor) -> _Pass:
    collector = job.collector(len(x))
    gradients = _backward(job, x, y, collector.observe, collector.account)
    g = gradients.gradient
    relevance = g if job.composite.gives == "gradient" else x * g
    for direct in gradients.direct:
        if direct.shape != relevance.shape:
            raise RequestError("a rule for the input layer was used for a layer that does not read the input itself")
        relevance = relevance + direct
    if not torch.isfinite(relevance).all():
        raise not_finite("the input", relevance)
    stats = collector.statistics(gradients.order)
    return _Pass(relevance, gradients.logits, gradients.start, stats, collector.absorbed, gradients.order)


@dataclass(frozen=True, eq=False)
class _Gradients:
    gradient: torch.Tensor
    direct: list[torch.Tensor]
    logits: torch.Tensor
    start: torch.Tensor
    order: dict[str, int]


def _backward(
    job: _Job,
    x: torch.Tensor,
    y: torch.Tensor,
    observe: Callable[[str, Observation], None],
    account: Callable[[str, torch.Tensor], None],
) -> _Gradients:
    """A watched forward pass and its backward pass; the gradient is 0 unless the job asks for that of inputs."""
    leaf = x.detach().requires_grad_(job.inputs)
    exact = job.at == "makers" and (job.full or job.composite.average is not None)
    watch = Watch(
        job.model, len(x), job.composite, job.bounds, job.at, observe, account if job.account else None, exact,
        job.constants,
    )  # fmt: skip
    with torch.enable_grad(), watch.forgetting():
        given = leaf.clone()  # the network may change its inputs in place
        watch.begin(given)
        with watch:
            output = job.model(given)
        logits = logits_of(output)
        if job.composite.choose is not None:
            watch.check_seen([logits])
        check_classes(y, logits)
        if not logits.requires_grad:
            raise RequestError("the logits do not depend on the inputs")
        start = start_gradient(logits.detach(), y, job.start)
        leaves = [leaf] if job.inputs else [watch.layers.anchor]
        (result,) = torch.autograd.grad(logits, leaves, start, allow_unused=True)
        if job.inputs and result is None:
            raise RequestError("the logits do not depend on the inputs")
    gradient = result if job.inputs else torch.zeros_like(x)
    return _Gradients(
        gradient, watch.layers.direct, logits.detach(), (start * logits.detach()).sum(1), watch.layers.order
    )


def _integrated(job: _Job, x: torch.Tensor, y: torch.Tensor, path: IntegratedGradients) -> _Pass:
    """Σ_k ½(g_k + g_k+1)·(a_k+1 - a_k) along the path: integrated gradients at the input, conductance at a unit."""
    collector = job.collector(len(x))
    baseline = torch.full_like(x, path.baseline)
    total = torch.zeros_like(x)
    before: tuple[_Gradients, dict[str, list[Observation]]] | None = None
    logits_0: torch.Tensor | None = None
    for step in range(path.steps + 1):
        observations: dict[str, list[Observation]] = {}
        point = torch.lerp(baseline, x, step / path.steps)

        def keep(name: str, observation: Observation, to: dict[str, list[Observation]] = observations) -> None:
            to.setdefault(name, []).append(
                Observation(observation.a.clone(), observation.g, observation.r[:0], observation.dim)
            )

        now = _backward(job, point, y, keep, _nothing)
        if before is None:
            logits_0 = now.logits
        else:
            total += (before[0].gradient + now.gradient) * (x - baseline) / (2 * path.steps)
            for name, calls in observations.items():
                for old, new in zip(before[1][name], calls, strict=True):
                    assert old.g is not None
                    assert new.g is not None
                    change, g = new.a - old.a, (old.g + new.g) / 2
                    collector.observe(name, Observation(change, g, change * g, new.dim))
        before = (now, observations)
    assert before is not None
    assert logits_0 is not None
    last, ends = before
    stats = {}
    for name in last.order:
        if name not in collector.by_layer:
            continue
        calls_of_layer = collector.by_layer[name]
        final = job.collector(len(x))
        for call in ends[name]:
            final.observe(name, replace(call, r=call.a))
        whole, at_input = added(name, calls_of_layer), added(name, final.by_layer[name])
        stats[name] = UnitStatistics(whole.relevance, whole.gradient / path.steps, at_input.activation)
    if not torch.isfinite(total).all():
        raise not_finite("the input", total)
    change = start_gradient(last.logits, y, job.start) * (last.logits - logits_0)
    return _Pass(total, last.logits, change.sum(1), stats, {}, last.order)


def _smoothed(job: _Job, x: torch.Tensor, y: torch.Tensor, smooth: SmoothGrad) -> _Pass:
    """Mean over noisy inputs; a sample's noise depends on its values alone, not on its position in the batch."""
    width = smooth.noise * (x.flatten(1).amax(1) - x.flatten(1).amin(1)).reshape(-1, *[1] * (x.ndim - 1))
    # the same in any precision and on any device
    identities = [hashlib.sha256(sample.float().cpu().contiguous().numpy().tobytes()).hexdigest() for sample in x]
    passes = []
    for draw in range(smooth.samples):
        noise = torch.stack([_noise(x[0], smooth.seed, draw, identity) for identity in identities])
        passes.append(_once(replace(job, composite=replace(job.composite, average=None)), x + width * noise, y))
    stats = {
        name: UnitStatistics(
            *(
                sum(getattr(p.stats[name], f) for p in passes) / len(passes)
                for f in ("relevance", "gradient", "activation")
            )
        )
        for name in passes[0].stats
    }

    def mean(what: str) -> torch.Tensor:
        return torch.stack([getattr(p, what) for p in passes]).mean(0)

    return _Pass(mean("input"), mean("logits"), mean("start"), stats, {}, passes[0].order)


def _noise(like: torch.Tensor, seed: int, draw: int, sample: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, "smoothgrad", draw, sample))
    return torch.randn(like.shape, generator=generator).to(like)


def _nothing(name: str, absorbed: torch.Tensor) -> None:
    """Ignore absorbed relevance, which gradient methods do not have."""
