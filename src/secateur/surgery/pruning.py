"""Cuts the tensors of a network to size, and masks networks with the same effect at the old size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from secateur.core.errors import RequestError
from secateur.core.modules import check_module
from secateur.core.progress import ProgressOption, reported
from secateur.selection import Cut, Plan
from secateur.selection.plan import Edits, check_plan
from secateur.structure.attention import set_heads
from secateur.structure.base import tensors_in
from secateur.structure.corrected import correct, plain_function
from secateur.structure.edited import own_class
from secateur.structure.rewritten import Rewritten, bake, rewrite
from secateur.structure.source import text_of
from secateur.structure.structure import fingerprint_of
from secateur.structure.tracing import Call, arguments
from secateur.surgery.comparison import (
    RANDOM,
    Verification,
    compare_calls,
    compare_in_training,
    example_of,
    joined,
    random_call,
)
from secateur.surgery.copies import copied_network
from secateur.surgery.guard import guard_of, outline, set_guard
from secateur.surgery.traced import keep_when_copied

_EDITS = "_secateur_edits"
ADDED_BIAS = "_secateur_added_bias"


@reported("cutting the network")
def prune(
    model: nn.Module,
    plan: Plan,
    example_inputs: Any = None,
    *,
    check: bool = True,
    progress: ProgressOption = True,
) -> nn.Module:
    """A new, physically smaller network with the same function as the masked one; ``model`` is untouched.

    Args:
        model: the network for which the plan was made, or one with the same shapes.
        plan: which units are removed.
        example_inputs: for the check that both compute the same; by default random ones of the traced shapes.
        check: run the smaller and the masked network and compare all their outputs; see `verify`.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for a plan of another network, or when the smaller network does not run, or does not compute the
            same as the masked one, because its code names sizes.

    Example:
        >>> from secateur.structure import trace
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> structure = trace(net, torch.zeros(1, 4))
        >>> import numpy as np
        >>> plan = Plan.of(structure, np.arange(8) < 5, {}, "by hand", "none")
        >>> prune(net, plan)[0]
        Linear(in_features=4, out_features=5, bias=True)
    """
    _check_fingerprint(model, plan)
    slim = _copy_to_cut(model, plan.edits)
    apply_edits(slim, plan.edits)
    if check:
        _check(slim, model, plan, example_inputs)
    return slim


def _check_fingerprint(model: nn.Module, plan: Plan) -> None:
    """Refuse a plan of another network, and values that are no plan or no network, before anything is done."""
    check_module(model)
    check_plan(plan)
    tensors = _tensors(model)
    missing = next((name for name in plan.weights if name not in tensors), None)
    if missing is not None:
        raise RequestError(f"the plan is for another network: it knows a weight '{missing}', which is not here")
    fingerprint = fingerprint_of({name: tensors[name].shape for name in plan.weights})
    if fingerprint != plan.fingerprint:
        raise RequestError(
            f"the plan is for another network: its fingerprint is {plan.fingerprint}, this one's {fingerprint}"
        )


def _copy_to_cut(model: nn.Module, edits: Edits) -> nn.Module:
    """A copy whose tensors that will be cut share memory with the original's, because cutting creates new ones."""
    if any(code.get("baked") for code in edits.code.values()):
        return copied_network(model)
    tensors = _tensors(model)
    shared: dict[int, Any] = {}
    for name in {cut.tensor for cut in edits.cuts}:
        tensor = tensors.get(name)
        if isinstance(tensor, nn.Parameter):
            shared[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
        elif tensor is not None:
            shared[id(tensor)] = tensor.detach()
    return copied_network(model, shared)


def mask(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy at the old size in which no layer reads a removed unit: it computes the same as `prune`'s network.

    All parameters of removed units are set to zero: where the units are produced, where they are passed on (so that
    norms do not leak their bias), and where they are read. Norms over removed units run over those that stay.
    """
    _check_fingerprint(model, plan)
    masked = copied_network(model)
    modules = dict(masked.named_modules(remove_duplicate=False))
    for path, code in plan.edits.masks.items():
        bake(modules[path], code, path)
        rewrite(modules[path], code, path)
    for layer in masked.modules():
        if isinstance(layer, nn.TransformerEncoderLayer) and any(isinstance(m, Rewritten) for m in layer.children()):
            layer.activation_relu_or_gelu = 0  # or PyTorch's fused path would bypass the code of the norms
    close(masked, plan.cuts)
    return masked


def close(model: nn.Module, cuts: Iterable[Cut]) -> None:
    """Set all parameters of removed units to zero, in place."""
    tensors = _tensors(model)
    parameters = {id(p) for p in model.parameters()}
    for cut in cuts:
        tensor = _checked(tensors, cut)
        if id(tensor) in parameters:
            with torch.no_grad():
                tensor.index_fill_(cut.dim, torch.tensor(cut.removed, device=tensor.device), 0)


def edits_of(model: nn.Module) -> Edits:
    """All edits that surgery made to a network, with indices of the original network."""
    edits: Edits = getattr(model, _EDITS, Edits())
    return edits


def apply_edits(model: nn.Module, edits: Edits, *, guard: bool = True) -> None:
    """Cut tensors in place, set attributes, and correct code that names sizes.

    Args:
        model: the network for which the edits were made.
        edits: the edits.
        guard: whether calls of kinds that were not traced are checked from now on.

    Raises:
        RequestError: for another network.
    """
    known = guard_of(model)
    before = known.before if known is not None else outline(model) if guard and edits.cuts else None
    modules = dict(model.named_modules(remove_duplicate=False))
    for path in (*edits.attributes, *edits.corrections, *edits.heads, *edits.code):
        if path not in modules:
            raise RequestError(f"the plan is for another network: it changes module '{path}', which is not here")
    for path, code in edits.code.items():
        bake(modules[path], code, path)
    _apply_cuts(model, edits.cuts)
    for path, values in edits.attributes.items():
        for name, value in values.items():
            if type(modules[path].__dict__.get(name)) is not int:
                raise RequestError(f"the plan is for another network: module '{path}' has no integer '{name}'")
            modules[path].__dict__[name] = value
    for path, heads in edits.heads.items():
        set_heads(modules[path], heads, path)
    for path, corrections in edits.corrections.items():
        correct(modules[path], corrections, path)
    for path, code in edits.code.items():
        rewrite(modules[path], code, path)
    setattr(model, _EDITS, edits_of(model).then(edits))
    if guard and before is not None:
        set_guard(model, before, edits_of(model))
    keep_when_copied(model)
    _empty_caches(model)


def _empty_caches(model: nn.Module) -> None:
    """Switch to training mode and back, where networks drop tensors that they keep between calls in eval mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    model.eval()
    for module, mode in modes:
        module.training = mode


def _apply_cuts(model: nn.Module, cuts: tuple[Cut, ...]) -> None:
    """Cut tensors in place, and the attributes of layers that name their sizes."""
    tensors = _tensors(model)
    new: dict[int, torch.Tensor] = {}
    for cut in cuts:
        old = _checked(tensors, cut)
        current = new.get(id(old), old)
        index = torch.from_numpy(cut.kept()).to(old.device)
        new[id(old)] = current.detach().index_select(cut.dim, index)
    named = {id(tensors[cut.tensor]) for cut in cuts}
    for module in model.modules():
        weight = module._parameters.get("weight")
        bias = module._parameters.get("bias")
        out = [c for c in cuts if weight is not None and tensors[c.tensor] is weight and c.role == "out"]
        if out and bias is not None and id(bias) not in named:
            # compensation added a bias, which the plan does not know
            new[id(bias)] = bias.detach().index_select(0, torch.from_numpy(out[0].kept()).to(bias.device))
    groups = _groups_left(model, tensors, cuts)
    new_parameters: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for module in model.modules():
        before = None if module._parameters.get("weight") is None else module._parameters["weight"].shape  # type: ignore[union-attr]
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in new:
                if id(parameter) not in new_parameters:
                    cut_ = _like(new[id(parameter)], parameter)
                    new_parameters[id(parameter)] = nn.Parameter(cut_, requires_grad=parameter.requires_grad)
                module._parameters[name] = new_parameters[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and id(buffer) in new:
                module._buffers[name] = new[id(buffer)].clone()
        _resize(module, before, groups.get(id(module)))


def _groups_left(model: nn.Module, tensors: dict[str, torch.Tensor], cuts: tuple[Cut, ...]) -> dict[int, int]:
    """Number of groups of convolutions of which any channel stays, by module."""
    left = {}
    for module in model.modules():
        if isinstance(module, _ConvNd) and module.groups > 1:
            for cut in cuts:
                if tensors[cut.tensor] is module.weight and cut.dim == 0:
                    stay = np.isin(np.arange(cut.size), cut.removed, invert=True)
                    left[id(module)] = int(stay.reshape(module.groups, -1).any(1).sum())
    return left


def add_bias(module: nn.Module, bias: torch.Tensor) -> None:
    """Add a bias to a layer without one; bundles record it."""
    weight = module.get_parameter("weight")
    module.register_parameter("bias", nn.Parameter(bias.to(weight), requires_grad=weight.requires_grad))
    setattr(module, ADDED_BIAS, True)


def _like(tensor: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """A tensor in the memory format of another, so that channels-last networks stay channels-last."""
    if old.ndim == 4 and not old.is_contiguous() and old.is_contiguous(memory_format=torch.channels_last):
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.contiguous()


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _checked(tensors: dict[str, torch.Tensor], cut: Cut) -> torch.Tensor:
    tensor = tensors.get(cut.tensor)
    if tensor is None:
        raise RequestError(f"the plan is for another network: it cuts '{cut.tensor}', which is not here")
    if cut.dim >= tensor.ndim or tensor.shape[cut.dim] != cut.size:
        raise RequestError(
            f"the plan is for another network: '{cut.tensor}' has shape {tuple(tensor.shape)}, "
            f"the plan expects {cut.size} in dimension {cut.dim}"
        )
    return tensor


def _resize(module: nn.Module, before: torch.Size | None, groups: int | None) -> None:
    weight = module._parameters.get("weight")
    if isinstance(module, _NormBase):  # batch and instance norms
        known = weight if weight is not None else module._buffers.get("running_mean")
        if known is not None:
            module.num_features = known.shape[0]
    if weight is None or before is None:
        return
    if isinstance(module, _ConvNd):
        module.groups = module.groups if groups is None else groups
        # weights are [out, in / groups, ...]; transposed ones [in, out / groups, ...]
        lead, inner = weight.shape[0], weight.shape[1] * module.groups
        module.in_channels, module.out_channels = (lead, inner) if module.transposed else (inner, lead)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = weight.shape[0]
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
    elif isinstance(module, nn.GroupNorm):
        # whole groups are removed, or channels of the only one
        module.num_groups = max(1, module.num_groups * weight.shape[0] // before[0])
        module.num_channels = weight.shape[0]
    elif hasattr(module, "normalized_shape"):
        module.normalized_shape = tuple(weight.shape)  # type: ignore[assignment]


_PRUNED = "the pruned network "


def _check(slim: nn.Module, model: nn.Module, plan: Plan, example_inputs: Any) -> None:
    """Compare the smaller network with the masked one, and raise an error where surgery did not keep them equal."""
    calls = [] if example_inputs is None else [example_inputs]
    report = verify(slim, model, plan, calls, training=_reads_its_mode(model))
    for row in (*report.wrong, *report.refused):
        said = f"refuses what was traced ({row.refused})" if row.refused else row.problem.removeprefix(_PRUNED)
        remedy = (
            "trace it in training mode as well: sc.trace(model, example, training=True)"
            if "training mode" in row.call
            else "protect the layers that it names, or take sizes from tensors in the network's code"
        )
        raise RequestError(f"the pruned network {said or f'computes something else ({row})'}; {remedy}")
    if not report.outputs and not any(RANDOM in reason for reason in report.skipped):
        raise RequestError(
            f"the pruned network could not be checked ({'; '.join(report.skipped) or 'it returns no tensor'}); "
            "give inputs that it accepts: prune(..., example_inputs=...)"
        )


@reported("comparing a network with the masked one")
def verify(
    slim: nn.Module,
    model: nn.Module,
    plan: Plan,
    calls: Sequence[Any] = (),
    *,
    random: bool = True,
    training: bool = True,
    seed: int = 0,
    progress: ProgressOption = True,
) -> Verification:
    """Compare a pruned network with the masked one: every tensor of their outputs.

    Both run in eval mode on the given calls and on random inputs, with the same and with another number of samples, and
    in training mode on the random inputs, without dropout and only where nothing else draws random numbers.

    Args:
        slim: ``prune(model, plan)``, before it is trained.
        model: the network before pruning.
        plan: the plan with which it was pruned.
        calls: calls, each a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        random: also run on random inputs, like the first call or of the shapes with which the network was traced.
        training: also run in training mode, where that draws no random numbers.
        seed: seed of the random inputs.
        progress: see `prune`.

    Returns:
        One row per call and tensor, with the difference or why the call is refused, and the calls that could not be
        compared.

    Raises:
        RequestError: for a plan of another network.

    Example:
        >>> import secateur as sc
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> structure = sc.trace(net, torch.zeros(2, 4))
        >>> plan = Plan.of(structure, np.arange(8) < 5, {}, "by hand", "none")
        >>> report = sc.verify(sc.prune(net, plan), net, plan, [torch.ones(3, 4)])
        >>> report.ok, [row.call for row in report.outputs]
        (True, ['call 1', 'random inputs', 'random inputs', 'random inputs in training mode'])
    """
    masked = mask(model, plan)
    given = [(f"call {number + 1}", arguments(call)) for number, call in enumerate(calls)]
    parts = [compare_calls(slim, masked, given)]
    if random:
        first = given[0][1] if given else arguments(example_of(plan.inputs, next(model.parameters())))
        parts += _on_random_inputs(slim, masked, first, training, seed)
    return joined(*parts)


def _on_random_inputs(slim: nn.Module, masked: nn.Module, like: Call, training: bool, seed: int) -> list[Verification]:
    samples = next((int(t.shape[0]) for t in tensors_in(like) if t.ndim), 1)
    calls = [random_call(like, batch, seed) for batch in (samples + 1 if samples < 4 else 2, samples)]
    given = [("random inputs", call) for call in calls if call is not None]
    if not given:
        return [Verification((), ("random inputs: the network takes objects that hold tensors",))]
    parts = [compare_calls(slim, masked, [item]) for item in given]
    runs = [call for (_, call), found in zip(given, parts, strict=True) if found.outputs]
    if training and runs:
        parts.append(compare_in_training(slim, masked, "random inputs in training mode", runs[0]))
    # a network that accepts only the traced number of samples is compared on that
    return [part for part in parts if part.outputs] or parts[:1]


def _reads_its_mode(model: nn.Module) -> bool:
    """Whether code outside PyTorch's own layers may behave differently in training mode."""
    for kind in {own_class(module) for module in model.modules()}:
        function = plain_function(getattr(kind, "forward", None))
        if function is not None and not (function.__module__ or "").startswith("torch.nn."):
            text = text_of(function.__code__)
            if text is None or "training" in text.text:
                return True
    return False
