"""A network is borrowed for some passes and comes back as it was, whatever the passes did and however they ended.

Loans that share a module, a parameter or a buffer exclude each other between threads: the second thread waits. Within a
thread they may be nested, and may end in any order.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from secateur.core.errors import RequestError, SecateurError

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)

Restore = Callable[[], None]
Key = tuple[str, int]
"""What is restored, and the id of the module or tensor that it belongs to."""


@contextlib.contextmanager
def borrowed(model: nn.Module, prepare: bool = True) -> Iterator[None]:
    """Eval mode without parameter gradients inside; everything as it was afterwards, also after an exception.

    Inside, all modules are in eval mode (after one switch to train mode, so that what modules computed and kept for
    their eval mode is computed anew), no parameter requires a gradient, PyTorch's fused path of attention modules is
    off (it cannot be watched), and `torch.inference_mode` is off (gradients are, then).

    Afterwards, these are as they were: every module's mode and other attributes; which parameters require gradients;
    which parameters and buffers stand under the names that there were; the values of buffers that passes have updated;
    hooks; and the parameters of modules with a ``train`` method of their own, which may merge weights into others, and
    of embeddings that scale their rows down. Modules, parameters and buffers that a pass has added stay. The values of
    other parameters are not copied: code that changes them inside has to restore them.

    Args:
        model: any network. While it is borrowed, another thread that borrows it, or a part of it, waits.
        prepare: False: modes and parameters are left alone at first; everything is restored all the same.

    Raises:
        RequestError: for parameters or buffers without a shape yet.
        SecateurError: when two threads each wait for a network that the other one holds.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> with borrowed(net):
        ...     net.training, net[0].weight.requires_grad
        (False, False)
        >>> net.training, net[0].weight.requires_grad
        (True, True)
    """
    _check_shapes(model)
    loan = _Loan(model)
    earlier = _loans.begin(loan)
    try:
        loan.save(earlier)
        with _unfused_attention, _outside_inference_mode():
            if prepare:
                loan.prepare()
            yield
    finally:
        _loans.end(loan)


def check_values(model: nn.Module, gradients: bool = False) -> None:
    """Refuse a network that holds no values.

    Args:
        model: any network.
        gradients: whether gradients are to pass its weights.

    Raises:
        RequestError: naming a parameter or buffer on the meta device, or one that `torch.inference_mode` made where
            gradients are needed.

    Example:
        >>> check_values(nn.Linear(2, 2, device="meta"))
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: 'weight' is on the meta device and holds no values; load the weights first \
(model.to_empty(device='cpu'), then load_state_dict)
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise RequestError(
                f"'{name}' is on the meta device and holds no values; load the weights first "
                "(model.to_empty(device='cpu'), then load_state_dict)"
            )
        if gradients and tensor.is_inference():
            raise RequestError(
                f"'{name}' was made inside torch.inference_mode, where gradients cannot pass; build the network "
                "outside of it, or give copy.deepcopy(model), made outside of it"
            )


def _check_shapes(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise RequestError(f"'{name}' of the network has no shape yet; call the network once on an input first")


class _Loan:
    """One call of `borrowed`: its network, its thread, and how to restore what belongs to the network."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.thread = threading.get_ident()
        self.saved: dict[Key, Restore] = {}
        # held here, so that no other object gets their ids while the loan lasts
        self._parts = [*model.modules(), *model.parameters(), *model.buffers()]
        self.ids = frozenset(map(id, self._parts))

    def save(self, earlier: list[_Loan]) -> None:
        """Note how everything is, in the order in which it is to be restored.

        Args:
            earlier: loans of this thread that share parts; values that they have copied are not copied again.
        """
        copied = {key for loan in earlier for key in loan.saved}
        modules = list(self.model.modules())
        # outermost first: a `train` method sets the modes of modules further down, which get their own afterwards
        for module in modules:
            self.saved["mode", id(module)] = _mode(module)
        for module in modules:
            if not isinstance(module, torch.jit.ScriptModule):
                self.saved["names", id(module)] = _names(module)
                self.saved["hooks", id(module)] = _hooks(module)
                self.saved["attributes", id(module)] = _attributes(module)
        for parameter in self.model.parameters():
            self.saved["requires_grad", id(parameter)] = _requires_grad(parameter)
        switching = [module for module in modules if _switches(module) or getattr(module, "max_norm", None) is not None]
        for tensor in (*self.model.buffers(), *(p for m in switching for p in m.parameters(recurse=False))):
            if ("values", id(tensor)) not in copied:
                self.saved["values", id(tensor)] = _values(tensor)

    def prepare(self) -> None:
        """Make the network ready for passes."""
        self.model.train()
        self.model.eval()
        for parameter in self.model.parameters():
            if parameter.requires_grad and not parameter.is_inference():
                parameter.requires_grad = False


class _Loans:
    """All loans of the process, in the order in which they began."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._current: list[_Loan] = []
        self._waiting: dict[int, set[int]] = {}

    def begin(self, loan: _Loan) -> list[_Loan]:
        """Wait until no other thread holds a part of the network; the loans of this thread that do."""
        with self._changed:
            while holders := {other.thread for other in self._sharing(loan)} - {loan.thread}:
                self._waiting[loan.thread] = holders
                try:
                    if self._waits_for(loan.thread, holders):
                        raise SecateurError(
                            "two threads each wait for a network that the other one uses; let every thread use the "
                            "networks in the same order, or give each its own copy"
                        )
                    self._changed.wait()
                finally:
                    del self._waiting[loan.thread]
            earlier = self._sharing(loan)
            self._current.append(loan)
            return earlier

    def end(self, loan: _Loan) -> None:
        """Restore; what a later loan still needs as it is, that loan restores when it ends."""
        with self._changed:
            later = self._current[self._current.index(loan) + 1 :]
        try:
            restores = []
            for key, restore in loan.saved.items():
                heir = next((other for other in later if key[1] in other.ids), None)
                if heir is None:
                    restores.append(restore)
                else:
                    heir.saved[key] = restore
            _call_all(iter(restores))
        finally:
            with self._changed:
                self._current.remove(loan)
                self._changed.notify_all()

    def forked(self) -> None:
        """In a new process, only the thread that made it goes on."""
        self._changed = threading.Condition()
        self._waiting = {}
        self._current = [loan for loan in self._current if loan.thread == threading.get_ident()]

    def _sharing(self, loan: _Loan) -> list[_Loan]:
        return [other for other in self._current if not other.ids.isdisjoint(loan.ids)]

    def _waits_for(self, thread: int, holders: set[int]) -> bool:
        """Whether one of the holders waits for the thread, itself or through others."""
        seen: set[int] = set()
        open_ = set(holders)
        while open_:
            holder = open_.pop()
            if holder == thread:
                return True
            seen.add(holder)
            open_ |= self._waiting.get(holder, set()) - seen
        return False


_loans = _Loans()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_loans.forked)


def _switches(module: nn.Module) -> bool:
    """Whether a module has a `train` method of its own."""
    return type(module).train is not nn.Module.train and not isinstance(module, torch.jit.ScriptModule)


def _mode(module: nn.Module) -> Restore:
    mode = module.training

    def restore() -> None:
        if _switches(module) and module.training != mode:
            module.train(mode)
        module.training = mode

    return restore


def _names(module: nn.Module) -> Restore:
    """Put modules, parameters and buffers back under their names; further ones stay."""
    tables: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (table, dict(table)) for table in (module._modules, module._parameters, module._buffers)
    ]

    def restore() -> None:
        for table, before in tables:
            for name, value in before.items():
                if name not in table or table[name] is not value:
                    table[name] = value

    return restore


def _hooks(module: nn.Module) -> Restore:
    tables: list[tuple[dict[int, Any], dict[int, Any]]] = [
        (table, dict(table)) for table in (getattr(module, name, None) for name in _HOOKS) if table is not None
    ]

    def restore() -> None:
        for table, before in tables:
            if list(table.items()) != list(before.items()):
                table.clear()
                table.update(before)

    return restore


def _attributes(module: nn.Module) -> Restore:
    """Put plain attributes back; the tables of parameters, hooks and so on are restored by themselves."""
    before = {name: value for name, value in module.__dict__.items() if name != "training"}

    def restore() -> None:
        now = module.__dict__
        for name in [name for name in now if name not in before and name != "training"]:
            del now[name]
        for name, value in before.items():
            if name not in now or now[name] is not value:
                now[name] = value

    return restore


def _requires_grad(parameter: nn.Parameter) -> Restore:
    wanted = parameter.requires_grad

    def restore() -> None:
        if parameter.requires_grad != wanted:
            parameter.requires_grad = wanted

    return restore


def _values(tensor: torch.Tensor) -> Restore:
    """Copy a tensor; the copy is written back only where something has changed."""
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
        return _nothing
    inference = tensor.is_inference()  # such tensors have no version
    version = None if inference else tensor._version
    plain = type(tensor) in (torch.Tensor, nn.Parameter)
    copy = tensor.detach().clone()

    def restore() -> None:
        if tensor.shape != copy.shape:
            tensor.data = copy
            return
        # what is written to `tensor.data` leaves the version as it is
        changed = (not inference and tensor._version != version) or (plain and not torch.equal(tensor, copy))
        if changed:
            with torch.no_grad(), torch.inference_mode() if inference else contextlib.nullcontext():
                tensor.copy_(copy)

    return restore


def _call_all(restores: Iterator[Restore]) -> None:
    """In turn, the rest also after an exception."""
    for restore in restores:
        try:
            restore()
        except BaseException:
            _call_all(restores)
            raise


def _nothing() -> None:
    """There is nothing to restore."""


class _UnfusedAttention:
    """Switches off the fused path of PyTorch's attention modules while any loan lasts; it is one switch for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users, self._before = 0, True

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                torch.backends.mha.set_fastpath_enabled(self._before)


_unfused_attention = _UnfusedAttention()


@contextlib.contextmanager
def _outside_inference_mode() -> Iterator[None]:
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, each module's own mode afterwards, and nothing else restored: weights may change."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
