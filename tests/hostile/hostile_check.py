"""What every odd network goes through; problems are collected, so that one run shows them all."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile_cases import Call, Network
from torch import nn

import secateur as sc

SEVERITIES = ("silent", "accepted", "lost", "raw", "refused", "locked")
"""Wrong without a word; pruned where it must not be; the user's model changed; raw exception; refused or locked where
it should work."""
NOT_APPLICABLE = ("cannot be reached", "would remove nothing")
VARIANTS = "variants" in inspect.signature(sc.trace).parameters


@dataclasses.dataclass(frozen=True)
class Problem:
    """What went wrong where."""

    severity: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.text}"


def leaves(value: Any, at: str = "output", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """All tensors and plain values of an output, by their places."""
    if isinstance(value, (torch.Tensor, bool, int, float, str)):
        yield at, value
    elif hasattr(value, "get_seq_length"):
        # keys and values are for the network that made them; how many there are is for everybody
        yield f"{at} positions", int(value.get_seq_length())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{at}[{key!r}]", depth + 1)
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{at}[{index}]", depth + 1)
    elif hasattr(value, "__dict__") and depth < 6 and not isinstance(value, (type, nn.Module)):
        for key, item in vars(value).items():
            if isinstance(item, (torch.Tensor, Mapping, tuple, list)) or hasattr(item, "__dict__"):
                yield from leaves(item, f"{at}.{key}", depth + 1)


def difference(found: Any, expected: Any, limit: float) -> str | None:
    """The first place where two outputs differ."""
    one, two = list(leaves(found)), list(leaves(expected))
    if [at for at, _ in one] != [at for at, _ in two]:
        return f"gives {[at for at, _ in one]}, the masked network {[at for at, _ in two]}"
    if not any(isinstance(item, torch.Tensor) for _, item in two):
        return "gives no tensor"
    for (at, a), (_, b) in zip(one, two, strict=True):
        text = _different(a, b, limit)
        if text:
            return f"{at} {text}"
    return None


def _different(a: Any, b: Any, limit: float) -> str | None:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        same = abs(a - b) <= limit * max(1, abs(b)) if isinstance(a, float) and isinstance(b, float) else a == b
        return None if same and type(a) is type(b) else f"is {a!r}, not {b!r}"
    a, b = a.detach(), b.detach()
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"is {a.dtype} {list(a.shape)}, not {b.dtype} {list(b.shape)}"
    if not (b.is_floating_point() or b.is_complex()):
        return None if torch.equal(a, b) else "has other integers"
    if not b.numel():
        return None
    odd = ~torch.isfinite(b)
    if not torch.equal(odd, ~torch.isfinite(a)) or not torch.equal(torch.nan_to_num(a[odd]), torch.nan_to_num(b[odd])):
        return "is infinite or NaN elsewhere"
    if bool(odd.all()):
        return None
    gap, scale = float((a[~odd] - b[~odd]).abs().max()), float(b[~odd].abs().max())
    return None if gap <= limit * max(scale, 1e-2) else f"differs by {gap:.3g} of {scale:.3g}"


@contextlib.contextmanager
def fused(enabled: bool) -> Iterator[None]:
    """Whether attention runs PyTorch's fused inference code."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def answer(model: nn.Module, call: Call, batch: int, seed: int, stateful: bool = False, chance: int = 0) -> Any:
    """What a network gives; ``chance`` is another state of the random generator."""
    args, kwargs = call.draw(batch, seed)
    torch.manual_seed(seed + 1000 * chance)
    if stateful or call.train:
        model = copy.deepcopy(model)
    model.train(call.train)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The PyTorch API of nested tensors")
            return model(*args, **kwargs) if call.use is None else call.use(model, *args, **kwargs)
    finally:
        model.eval()


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}".replace("\n", " | ")


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that a user can see of a model that was lent."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        found[f"{path}: mode"] = module.training
        for key, value in module.__dict__.items():
            if type(value).__name__ == "Size" and type(value) is not torch.Size:
                found[f"{path}.{key}: type"] = type(value)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[name] = (tensor.requires_grad, tensor.detach().clone())
    return found


def changed(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    if before.keys() != after.keys():
        return f"{sorted(before.keys() ^ after.keys())[:3]}"
    for key, value in before.items():
        if isinstance(value, tuple):
            other = after[key]
            if value[0] != other[0] or not torch.equal(torch.nan_to_num(value[1]), torch.nan_to_num(other[1])):
                return key
        elif value != after[key]:
            return key
    return None


class Check:
    """One network's way through tracing, pruning, training, copying, saving and loading."""

    def __init__(self, case: Network, folder: Path) -> None:
        self.case, self.folder = case, folder
        self.problems: list[Problem] = []
        self.batch = case.example.batch or 2

    def note(self, severity: str, where: str, text: str) -> None:
        self.problems.append(Problem(severity, where, text))

    def run(self) -> list[Problem]:
        """All problems; empty is good."""
        model = self.case.built()
        before = state_of(model)
        for seed, with_variants in ((0, True), (1, False)):
            if not self._pruned(model, seed, with_variants):
                break
        lost = changed(before, state_of(model))
        if lost:
            self.note("lost", "the model that was lent", f"'{lost}' is not as it was")
        return self.problems

    # steps

    def trace(self, model: nn.Module, with_variants: bool = True) -> sc.Structure:
        options: dict[str, Any] = {"stream": True} if self.case.stream else {}
        variants = [c.example(model, self.batch, 3) for c in self.case.calls if c.traced and c.use is None]
        if VARIANTS and with_variants and variants:
            options["variants"] = variants
        return sc.trace(model, self.case.example.example(model, self.batch, 0), **options)

    def plan(self, structure: sc.Structure, seed: int) -> sc.Plan | None:
        """About half of the units go, by random scores."""
        values = np.random.default_rng(seed).random(structure.num_units)
        scores = sc.Scores(structure, values, "by hand")
        for share in (0.5, 0.75, 0.9, 0.97):
            try:
                return sc.select(scores, sc.Budget(units=share), "per-layer" if seed == 0 else "global")
            except sc.RequestError as error:
                if not any(text in str(error) for text in NOT_APPLICABLE):
                    raise
        return None

    def _pruned(self, model: nn.Module, seed: int, with_variants: bool) -> bool:
        """Whether the network can be pruned; everything is tried on the way."""
        case, stage = self.case, f"keep {seed}"
        made = self.made(model, seed, with_variants, stage)
        if made is None:
            return False
        structure, plan, slim, masked = made
        if seed == 0:
            self._check_layers(structure)
        refusable = not (VARIANTS and with_variants)
        self._compare(slim, masked, case.example, self.batch, 10 + seed, stage)
        if case.batches and not case.example.batch:
            self._compare(slim, masked, case.example, 3 - 2 * seed, 20 + seed, f"{stage}, other batch size")
        for number, call in enumerate(case.calls):
            where = f"{stage}, call {number + 1} ({_said(call)})"
            self._compare(slim, masked, call, self.batch, 30 + number, where, refusable and call.traced)
        if seed == 0:
            self._guarded("deep copy", self._check_copy, slim)
            self._guarded("a step of training", self._check_step, slim, masked, plan)
        else:
            self._guarded("pruned twice", self._check_twice, slim, with_variants)
        return True

    def made(self, model: nn.Module, seed: int = 0, with_variants: bool = True, stage: str = "") -> Any:
        """Structure, plan, pruned and masked network; None, and a problem noted, where that is not to be had."""
        case = self.case
        try:
            structure = self.trace(model, with_variants)
            plan = self.plan(structure, seed)
            if plan is None:
                if case.expected == "exact":
                    self.note("locked", stage, "nothing could be removed")
                return None
            given = case.example.example(model, self.batch, 5) if case.checks_with_example else None
            slim = sc.prune(model, plan, given)
        except sc.RequestError as error:
            self._refusal(error, stage)
            return None
        except Exception as error:  # noqa: BLE001
            self.note("raw", stage, one_line(error))
            return None
        if case.expected == "refused":
            self.note("accepted", stage, f"pruned; expected a refusal with '{case.reason}'")
        try:
            return structure, plan, slim, sc.mask(model, plan)
        except Exception as error:  # noqa: BLE001
            self.note("raw", f"{stage}, mask", one_line(error))
            return None

    def _refusal(self, error: Exception, stage: str) -> None:
        case, text = self.case, str(error)
        if "\n" in text:
            self.note("raw", stage, f"more than one line: {one_line(error)}")
        if case.may_refuse:
            return
        if case.expected == "refused":
            if not re.search(case.reason, text):
                self.note("refused", stage, f"expected '{case.reason}', found: {one_line(error)}")
        elif case.expected == "locked" and "no prunable units" in text and not case.prunes:
            if not any(re.search(reason, text) for reason in case.locked.values()):
                self.note("locked", stage, f"expected {dict(case.locked)}, found: {one_line(error)}")
        else:
            self.note("refused", stage, one_line(error))

    def _check_layers(self, structure: sc.Structure) -> None:
        for layer in self.case.prunes:
            names = {name for group in structure.groups for name in (group.name, *group.layers)}
            if not any(name == layer or name.startswith((f"{layer}.", f"{layer}[")) for name in names):
                reasons = [f"{item.name}: {item.reason}" for item in structure.locked]
                self.note("locked", f"layer '{layer}'", f"its units cannot go ({'; '.join(reasons)[:300]})")
        for layer, reason in self.case.locked.items():
            try:
                structure.group(layer)
                self.note("accepted", f"layer '{layer}'", f"its units can go; expected: {reason}")
            except sc.RequestError as error:
                if not re.search(reason, str(error)):
                    self.note("locked", f"layer '{layer}'", f"expected '{reason}', found: {one_line(error)}")

    def _compare(
        self, slim: nn.Module, masked: nn.Module, call: Call, batch: int, seed: int, where: str, refusable: bool = False
    ) -> None:
        """Equal outputs, or one line of refusal where that is allowed."""
        stateful = self.case.stateful
        try:
            expected = answer(masked, call, batch, seed, stateful)
        except sc.RequestError as error:
            # the masked network of one that was pruned before refuses what that one refuses
            if not (call.may_refuse or refusable):
                self.note("refused", f"{where}, masked", one_line(error))
            return
        except Exception as error:  # noqa: BLE001
            self.note("raw", f"{where}, masked", one_line(error))
            return
        try:
            found = answer(slim, call, batch, seed, stateful)
        except sc.RequestError as error:
            if not (call.may_refuse or refusable):
                self.note("refused", where, one_line(error))
            elif "\n" in str(error):
                self.note("raw", where, f"more than one line: {one_line(error)}")
            return
        except Exception as error:  # noqa: BLE001
            self.note("raw", where, one_line(error))
            return
        if call.random:
            # the same inputs under another state of the generator
            if difference(answer(slim, call, batch, seed, stateful, chance=1), found, 1e-12) is None:
                self.note("silent", where, "nothing is random any more in training mode")
            return
        text = difference(found, expected, self.case.limit)
        if text:
            self.note("silent", where, text)

    def _same(self, found: nn.Module, expected: nn.Module, where: str, limit: float) -> None:
        for number, call in enumerate((self.case.example, *self.case.calls)):
            if call.random:
                continue
            try:
                wanted = answer(expected, call, self.batch, 50 + number, self.case.stateful)
            except Exception:  # noqa: BLE001  (noted where pruned and masked networks are compared)
                continue
            try:
                got = answer(found, call, self.batch, 50 + number, self.case.stateful)
            except sc.RequestError as error:
                if not (call.may_refuse or call.traced):
                    self.note("refused", f"{where}, {_said(call)}", one_line(error))
                continue
            except Exception as error:  # noqa: BLE001
                self.note("raw", f"{where}, {_said(call)}", one_line(error))
                continue
            text = difference(got, wanted, limit)
            if text:
                self.note("silent", f"{where}, {_said(call)}", text)

    def _guarded(self, where: str, act: Any, *args: Any) -> None:
        try:
            act(*args)
        except sc.RequestError as error:
            if not self.case.may_refuse:
                self.note("refused", where, one_line(error))
        except Exception as error:  # noqa: BLE001
            self.note("raw", where, one_line(error))

    def _check_copy(self, slim: nn.Module) -> None:
        self._same(copy.deepcopy(slim), slim, "deep copy", 0.0)

    def _check_loaded(self, slim: nn.Module, plan: sc.Plan, name: str) -> None:
        path = sc.save(slim, self.folder / name, plan=plan)
        again = sc.load(path, model=self.case.built(seed=7))
        self._same(again, slim, f"saved and loaded, pruned {name}", 1e-13)

    def _check_step(self, slim: nn.Module, masked: nn.Module, plan: sc.Plan) -> None:
        trained, reference = copy.deepcopy(slim), copy.deepcopy(masked)
        if not stepped(trained, self.case, self.batch):
            self._guarded("saved", self._check_loaded, slim, plan, "once")
            return
        if self.case.compares_step:
            stepped(reference, self.case, self.batch)
            _close(reference, plan)
            self._same(trained, reference, "a step of training", max(1e-8, self.case.limit))
        self._guarded("a step of training, then saved", self._check_loaded, trained, plan, "and trained")

    def _check_twice(self, slim: nn.Module, with_variants: bool) -> None:
        stepped_slim = copy.deepcopy(slim)
        stepped(stepped_slim, self.case, self.batch)
        try:
            structure = self.trace(stepped_slim, with_variants)
        except sc.RequestError as error:
            if "no prunable units" in str(error):
                return
            raise
        plan = self.plan(structure, 2)
        if plan is None:
            return
        given = self.case.example.example(slim, self.batch, 5) if self.case.checks_with_example else None
        twice, masked = sc.prune(stepped_slim, plan, given), sc.mask(stepped_slim, plan)
        self._compare(twice, masked, self.case.example, self.batch, 40, "pruned twice")
        for number, call in enumerate(self.case.calls):
            self._compare(twice, masked, call, self.batch, 41 + number, f"pruned twice, {_said(call)}", call.traced)
        self._guarded("pruned twice, then saved", self._check_loaded, twice, plan, "twice")


def _said(call: Call) -> str:
    words = [*(["training"] if call.train else []), *(["variant"] if call.traced else []), *call.kwargs]
    return ", ".join(words) or f"{len(call.args)} arguments"


def _close(model: nn.Module, plan: sc.Plan) -> None:
    """What training gave back to removed units goes again."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for cut in plan.cuts:
            if cut.tensor in parameters:
                parameters[cut.tensor].index_fill_(cut.dim, torch.tensor(cut.removed), 0)


def stepped(model: nn.Module, case: Network, batch: int) -> bool:
    """One step of gradient descent, in training mode where nothing is random there; whether there was a gradient."""
    rates = [float(getattr(m, name)) for m in model.modules() for name in ("p", "dropout", "dropout_p", "attn_drop")
             if isinstance(getattr(m, name, None), (int, float))]  # fmt: skip
    model.train(not any(rates) and not case.stateful and not any(call.random for call in case.calls))
    args, kwargs = case.example.draw(batch, 60)
    torch.manual_seed(60)  # for networks that draw random numbers
    for parameter in model.parameters():
        parameter.grad = None
    output = model(*args, **kwargs)
    losses = [t.abs().pow(2).mean() for _, t in leaves(output)
              if isinstance(t, torch.Tensor) and t.requires_grad and bool(torch.isfinite(t).all())]  # fmt: skip
    if not losses:
        model.eval()
        return False
    sum(losses).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.01 * parameter.grad)
                parameter.grad = None
    model.eval()
    return True


def check(case: Network, folder: Path) -> list[Problem]:
    """All problems of one network, worst first."""
    with fused(case.fast_path):
        problems = Check(case, folder).run()
    return sorted(problems, key=lambda problem: SEVERITIES.index(problem.severity))
