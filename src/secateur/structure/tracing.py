"""Traces forward passes to find which parts of a network can only be removed together.

The pass is a real one, on the example input: control flow is followed. Every index of every tensor carries the
condition under which it stays (`secateur.structure.conditions`), operations pass conditions on
(`secateur.structure.operations`), and every module's own code is recorded (`secateur.structure.recording`), so that
surgery can correct the sizes that it names.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.core.borrowing import borrowed as borrowed  # also imported from here
from secateur.core.errors import RequestError
from secateur.core.modules import check_module
from secateur.core.progress import ProgressOption, reported
from secateur.structure.assembly import Assembly
from secateur.structure.base import tensors_in
from secateur.structure.calls import describe, named, returned_tensors, tensors_of
from secateur.structure.checks import check_inputs, check_network
from secateur.structure.hints import remedy
from secateur.structure.labels import Labels
from secateur.structure.recording import Recorder
from secateur.structure.structure import Structure
from secateur.structure.watching import Watcher


@reported("tracing the network")
def trace(
    model: nn.Module,
    example_inputs: Any,
    *,
    variants: Sequence[Any] = (),
    stream: bool = False,
    training: bool = False,
    progress: ProgressOption = True,
) -> Structure:
    """Find the groups of units of a network that can be removed together.

    Args:
        model: any module; it is run once in eval mode without gradients and restored to its state before.
        example_inputs: a tensor, or a tuple of positional arguments, or a dict of keyword arguments.
        variants: further calls that the pruned network must serve, in the same forms: with a mask, with a cache, at
            another length. A unit can only be removed where that is right in all of them. Costs are those of the
            first call.
        stream: allow the removal of channels that a layer norm, RMS norm or one-group group norm runs over, such as
            those of a transformer's residual stream. The norm then runs over the channels that stay, in masked networks
            as well.
        training: trace one more pass, in training mode, for networks that compute something else there. Layers that
            run in training only are traced in any case.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Returns:
        The structure: groups, locked channels with the reason, and the cost of everything.

    Raises:
        RequestError: when the network fails on the example input, reads values of activations (its structure may
            then depend on the data), shares memory between parameters, or has nothing to remove.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
        >>> structure = trace(net, torch.zeros(1, 3, 8, 8))
        >>> [(group.name, group.size) for group in structure.groups]
        [('0', 8)]
        >>> structure.locked[0].reason
        'is an output of the network'
    """
    if isinstance(variants, (torch.Tensor, str, Mapping)) or not isinstance(variants, Sequence):
        raise RequestError("variants must be a list of further example inputs")
    calls = [arguments(example) for example in (example_inputs, *variants)]
    assembly, outputs = watched(model, calls, stream, training)
    lock_outputs(assembly, outputs)
    return assembly.structure(describe(example_inputs))


def trace_outputs(model: nn.Module, example_inputs: Any) -> tuple[Structure, np.ndarray]:
    """The structure of a classifier whose outputs can be removed as well, one by one.

    Args:
        model: a network that returns logits [N, K], alone or as the first of several tensors; see `trace`.
        example_inputs: see `trace`.

    Returns:
        The structure, and the number of the unit of each output, [K].

    Raises:
        RequestError: as `trace`, and when outputs cannot be removed one by one, with the reason.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> structure, outputs = trace_outputs(net, torch.zeros(1, 4))
        >>> structure.group("2").units, outputs.tolist()
        (slice(8, 11, None), [8, 9, 10])
    """
    assembly, (outputs, *_) = watched(model, [arguments(example_inputs)], training=None)
    if not outputs or outputs[0].ndim != 2:
        shape = list(outputs[0].shape) if outputs else "of no tensor"
        raise RequestError(f"the network's output is {shape}, not [samples, classes]")
    logits, *others = outputs
    assembly.labels.lock(logits, _OUTPUT, [0])
    for tensor in others:
        assembly.labels.lock(tensor, "is returned by the network next to the logits")
    return assembly.outputs(assembly.labels.of(logits)[1], describe(example_inputs))


def lock_outputs(assembly: Assembly, outputs: Sequence[Sequence[torch.Tensor]]) -> None:
    """Lock the outputs of a network."""
    for of_call in outputs:
        for tensor in of_call:
            assembly.labels.lock(tensor, _OUTPUT)


_OUTPUT = "is an output of the network"
ASIDE = "_secateur_aside"
"""Attribute of forward hooks that do not belong to the network's structure: hooks where it is True are not traced."""


_one_at_a_time = threading.RLock()
"""Traces run one at a time: while one runs, calls of all modules of the process are recorded."""
Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


def watched(
    model: nn.Module,
    calls: Sequence[Call],
    stream: bool = False,
    training: bool | None = False,
    *,
    with_values: bool = True,
) -> tuple[Assembly, list[list[torch.Tensor]]]:
    """Trace passes on some calls: the assembly, from which nothing is built yet, and the tensors that each returned.

    Args:
        model: the network.
        calls: arguments of the passes; costs are those of the first.
        stream: see `trace`.
        training: trace a pass in training mode as well; False: only where layers (auxiliary heads) do not run
            otherwise; None: never.
        with_values: False where parameters have no values because this is an outline of a pruned network: then code
            that reads values of parameters is refused, and parts of a split may differ in length.
    """
    check_module(model)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    check_network(model, state)
    labels = Labels(state)
    first = list(tensors_in(calls[0]))
    watcher = Watcher(labels, int(first[0].shape[0]) if first and first[0].ndim else 1, stream)
    watcher.rules.with_values = watcher.rules.ties_parts = with_values
    recorder = Recorder(model, labels)
    watcher.available_tensors = recorder.available_tensors
    outputs = []
    random = torch.random.fork_rng(devices=[])  # a trace does not advance the random number generator
    with borrowed(model), _one_at_a_time, random, _without_hooks(model), recorder.watching(model):
        for number, call in enumerate(calls):
            outputs.append(_pass(model, *call, watcher, recorder))
            if number == 0:
                counted = len(watcher.rules.products)
        idle = [name for name, p in model.named_parameters() if p.ndim > 1 and name not in labels.state_dims]
        if training or (training is False and idle and _runs_in_training(model, calls[0])):
            model.train()
            watcher.training = True
            outputs.append(_pass(model, *calls[0], watcher, recorder))
    given = tuple(describe(named(model.forward, *call)) for call in calls)
    return Assembly(model, watcher.rules, recorder.scopes, given, counted), outputs


def _pass(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], watcher: Watcher, recorder: Recorder
) -> list[torch.Tensor]:
    """Trace one pass; return the tensors that the network returns."""
    tensors = list(tensors_in((args, kwargs)))
    check_inputs(tensors)
    labels = watcher.rules.labels
    labels.dependent.update(id(t) for t in tensors)
    labels.hold(tensors)
    for tensor in tensors_of([*args, *kwargs.values()]):
        if id(tensor) not in labels.dependent:  # in a cache or another object of the caller
            labels.carry(tensor)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), watcher.reads, recorder, watcher:
            output = model(*args, **kwargs)
    except RequestError:
        raise
    except Exception as error:  # the user's own code may raise anything; the remedy is the same
        raise RequestError(failure(error, tensors, model)) from error
    outputs = returned_tensors(output)
    for tensor in outputs:
        watcher.rules.used(tensor)
    return outputs


def _runs_in_training(model: nn.Module, call: Call) -> bool:
    """Whether a network runs in training mode on the example; some norms do not on a single value."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model.train()
        try:
            model(*call[0], **call[1])
        except Exception:  # noqa: BLE001 - whatever fails, only eval mode was requested
            return False
        finally:
            model.eval()
    return True


def failure(
    error: Exception,
    tensors: Sequence[torch.Tensor],
    model: nn.Module | None = None,
    what: str = "the example input",
) -> str:
    """The error message, of one line, for a network that does not run.

    Args:
        error: the error that it raised.
        tensors: tensors that were passed to it.
        model: the network.
        what: what the tensors are.
    """
    line = (str(error).splitlines() or [""])[0]
    hint = remedy(error, line, tensors, model)
    return (
        f"the network fails on {what} of shape {[tuple(t.shape) for t in tensors]}: "
        f"{type(error).__name__}: {line.rstrip(':')}{'; ' if hint else ''}{hint}"
    )


def arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a forward call."""
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        wrong = next((key for key in example_inputs if not isinstance(key, str)), None)
        if wrong is not None:
            raise RequestError(
                f"example_inputs names arguments by strings, got {wrong!r}; or give a tuple of arguments"
            )
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    raise RequestError(f"example_inputs must be a tensor, tuple or dict, got {_not_an_example(example_inputs)}")


def _not_an_example(given: Any) -> str:
    """The type of a value that is not an example input, and how to make one."""
    kind = type(given).__name__
    if isinstance(given, np.ndarray):
        return f"{kind}; torch.from_numpy(array) makes a tensor of it"
    if isinstance(given, nn.Module):
        return f"{kind}; the network comes first, the inputs second"
    if isinstance(given, Iterable) and not isinstance(given, str):
        return f"{kind}; give the inputs of one batch, such as next(iter(loader))[0]"
    return f"{kind}; give a batch of the network's inputs, such as torch.zeros(1, 3, 224, 224)"


@contextlib.contextmanager
def _without_hooks(model: nn.Module) -> Iterator[None]:
    """Remove hooks marked with `ASIDE` within the context, and restore all hooks in their order afterwards."""
    kinds = [hooks for module in model.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks)]
    before = [(hooks, dict(hooks)) for hooks in kinds]
    for hooks, all_ in before:
        for key, hook in all_.items():
            if getattr(hook, ASIDE, False):
                del hooks[key]
    try:
        yield
    finally:
        for hooks, all_ in before:
            hooks.clear()
            hooks.update(all_)
