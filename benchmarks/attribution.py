"""What relevance costs: ratios to a plain forward and backward pass, ours and other libraries' in one run.

    python benchmarks/attribution.py --json out/attribution.json
    python benchmarks/attribution.py --networks resnet18,vit_b_16 --composites epsilon,attnlrp --rounds 15 --no-memory
    python benchmarks/attribution.py --quick --networks resnet18       # does it run at all

Networks are torchvision's with random weights, in eval mode. The plain pass is the forward pass and the backward pass
of the target logits to the input, parameters without gradients. In each round every contender runs once, in an order
that rotates and every other time reverses; its time is divided by the mean of the plain passes at the round's start
and end. Reported are the medians of these ratios over the rounds, with quartiles.

The peers get their best case:

* zennit: batch norms behind convolutions are folded beforehand, others (densenet) get its ε-rule; its hooks and
  canonizers are registered before the clock starts. Densenet's last activation and pooling, functions in torchvision,
  are modules for it, because it only sees modules.
* captum: its LRP with the rules it takes by default, ε throughout. Activations do not work in place, each is a module
  of its own, and the sums of residual blocks are its ``Addition_Module``. It attaches rules and runs two forward passes
  in each call, which cannot be done beforehand.

What a peer computes is compared with ours in the warm-up, by the cosine of the relevance of the inputs: a time beside
"≠" belongs to something else and is not held against the goal. What does not run is "cannot", with the reason below.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import platform
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torchvision
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.profiler import ProfilerActivity, profile
from torchvision.models.resnet import BasicBlock

import secateur as sc
from secateur.core.files import write_json

# relevance of the inputs, from inputs and targets
Pass = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

CLASSES = 1000
BOX = (-3.0, 3.0)
FULL_SIZE, QUICK_SIZE = 224, 64
FULL_ROUNDS, QUICK_ROUNDS = 7, 3
CNN_COMPOSITES = (
    "epsilon",
    "epsilon-plus",
    "epsilon-gamma",
    "alpha2-beta1",
    "epsilon-plus-flat",
    "alpha2-beta1-flat",
    "epsilon-gamma-box",
)
TRANSFORMER_COMPOSITES = ("epsilon", "attnlrp", "cp-lrp")

# at most this many times the plain pass
TIME_GOALS = {"epsilon": 1.15, "epsilon-plus": 1.6, "epsilon-gamma": 1.6, "alpha2-beta1": 2.6}
TIME_GOALS_OF_NETWORK = {("vit_b_16", "attnlrp"): 1.3}
# at least this many times faster than zennit
ZENNIT_GOAL = 2.5
# at most this many times the memory of the plain pass
MEMORY_GOAL = 1.3
# stabilisers and the order of sums move single precision by less than this, another rule by far more
SAME = 0.99


@dataclass(frozen=True)
class Network:
    """A network of the benchmark."""

    name: str
    batch: int
    composites: tuple[str, ...]

    def build(self, size: int) -> nn.Module:
        """The network with its random weights, the same each time."""
        torch.manual_seed(0)
        # the position embedding is made for one size of images
        extra = {"image_size": size} if self.name.startswith("vit") else {}
        model: nn.Module = getattr(torchvision.models, self.name)(weights=None, **extra)
        return model.eval().requires_grad_(False)

    def batch_of(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets."""
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(self.batch, 3, size, size, generator=generator).clamp(*BOX)
        return inputs, torch.randint(CLASSES, (self.batch,), generator=generator)


NETWORKS = {
    network.name: network
    for network in (
        Network("resnet18", 8, CNN_COMPOSITES),
        Network("vgg16", 8, CNN_COMPOSITES),
        Network("densenet121", 8, CNN_COMPOSITES),
        Network("vit_b_16", 4, TRANSFORMER_COMPOSITES),
        Network("swin_t", 4, TRANSFORMER_COMPOSITES),
    )
}


@dataclass(frozen=True)
class Contender:
    """A library with a composite; ``plain`` has none."""

    tool: str
    composite: str = ""

    @property
    def label(self) -> str:
        """Key of the records."""
        return f"{self.tool}/{self.composite}" if self.composite else self.tool


PLAIN = Contender("plain")


def contenders_for(network: Network, composites: Sequence[str], peers: bool) -> list[Contender]:
    """All but the plain pass; ours first, so that peers can be compared with it."""
    chosen = [name for name in network.composites if name in composites]
    found = [Contender("ours", name) for name in chosen]
    if peers:
        found += [Contender("zennit", name) for name in chosen]
        # captum's own default is the ε-rule
        found += [Contender("captum", name) for name in chosen if name == "epsilon"]
    return found


# -- the forms of a network that the libraries want ------------------------------------------------------------------


@dataclass(frozen=True)
class Forms:
    """One network as each library wants it, made when first asked for."""

    network: Network
    size: int

    @cached_property
    def built(self) -> nn.Module:
        """As torchvision makes it: for the plain pass and ours."""
        return self.network.build(self.size)

    @cached_property
    def canonical(self) -> nn.Module:
        """For zennit."""
        model = self.network.build(self.size)
        fold(model)
        return in_modules(model)

    @cached_property
    def rewritten(self) -> nn.Module:
        """For captum."""
        from captum.attr._utils.custom_modules import Addition_Module

        model = self.network.build(self.size)
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        for block in [module for module in model.modules() if isinstance(module, BasicBlock)]:
            block.add, block.last = Addition_Module(), nn.ReLU()
            block.forward = types.MethodType(_block_of_modules, block)
        return in_modules(model)


def fold(model: nn.Module) -> None:
    """Merge batch norms into the convolutions before them, in place (zennit's own merging does the same)."""
    for parent in list(model.modules()):
        before: tuple[str, nn.Module] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before is not None and isinstance(before[1], nn.Conv2d):
                setattr(parent, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(parent, name, nn.Identity())
            before = (name, child)


def in_modules(model: nn.Module) -> nn.Module:
    """The network with its last activation and pooling as modules, where torchvision calls functions."""
    return _DenseNetOfModules(model) if isinstance(model, torchvision.models.DenseNet) else model


class _DenseNetOfModules(nn.Module):
    def __init__(self, model: torchvision.models.DenseNet) -> None:
        super().__init__()
        self.features = model.features
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = model.classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.classifier(torch.flatten(self.pool(self.relu(self.features(x))), 1))
        return result


def _block_of_modules(block: Any, x: torch.Tensor) -> torch.Tensor:
    """Forward of a residual block whose sum is a module and whose activations are two."""
    skip = x if block.downsample is None else block.downsample(x)
    out = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    result: torch.Tensor = block.last(block.add(skip, out))
    return result


# -- the passes ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def plain_pass(forms: Forms, composite: str) -> Iterator[Pass]:
    """Forward, and backward to the input."""
    model = forms.built

    def call(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = inputs.detach().requires_grad_(True)
        logits = model(x)
        logits[torch.arange(len(targets)), targets].sum().backward()
        assert x.grad is not None
        return x.grad

    yield call


@contextlib.contextmanager
def ours_pass(forms: Forms, composite: str) -> Iterator[Pass]:
    """`secateur.attribute`, with everything it does in a call."""
    model = forms.built
    box = {"low": BOX[0], "high": BOX[1]} if composite.endswith("-box") else {}
    chosen = sc.composites.get(composite, **box)

    def call(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return sc.attribute(model, inputs, targets, chosen, batch_size=len(inputs)).input

    yield call


@contextlib.contextmanager
def zennit_pass(forms: Forms, composite: str) -> Iterator[Pass]:
    """Zennit's attributor, its hooks registered."""
    from zennit.attribution import Gradient

    with Gradient(model=forms.canonical, composite=zennit_composite(composite)) as attributor:

        def call(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            relevance: torch.Tensor = attributor(inputs, F.one_hot(targets, CLASSES).to(inputs.dtype))[1]
            return relevance

        yield call


def zennit_composite(name: str) -> Any:
    """Zennit's composite of the same rules and stabilisers."""
    from zennit import composites as zc
    from zennit.rules import Epsilon, Gamma
    from zennit.torchvision import ResNetBasicBlockCanonizer
    from zennit.types import BatchNorm, Convolution, Linear

    # batch norms that no convolution took in; zennit's default passes relevance on and is another quantity
    affine = [(BatchNorm, Epsilon())]
    canonizers = [ResNetBasicBlockCanonizer()]
    common: dict[str, Any] = {"layer_map": affine, "canonizers": canonizers}
    base = affine + zc.layer_map_base()
    makers: dict[str, Callable[[], Any]] = {
        "epsilon": lambda: zc.LayerMapComposite([*base, (Linear, Epsilon())], canonizers),
        "epsilon-plus": lambda: zc.EpsilonPlus(**common),
        "epsilon-gamma": lambda: zc.LayerMapComposite(
            [*base, (Convolution, Gamma(0.25)), (Linear, Epsilon())], canonizers
        ),
        "alpha2-beta1": lambda: zc.EpsilonAlpha2Beta1(**common),
        "epsilon-plus-flat": lambda: zc.EpsilonPlusFlat(**common),
        "alpha2-beta1-flat": lambda: zc.EpsilonAlpha2Beta1Flat(**common),
        "epsilon-gamma-box": lambda: zc.EpsilonGammaBox(*BOX, **common),
    }
    if name not in makers:
        raise NotImplementedError(f"it has no rules for '{name}'")
    return makers[name]()


@contextlib.contextmanager
def captum_pass(forms: Forms, composite: str) -> Iterator[Pass]:
    """Captum's LRP with the rules it takes by default."""
    from captum.attr import LRP

    lrp = LRP(forms.rewritten)

    def call(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        relevance: torch.Tensor = lrp.attribute(inputs.detach().requires_grad_(True), target=targets)
        return relevance.detach()

    yield call


PASSES: dict[str, Callable[[Forms, str], AbstractContextManager[Pass]]] = {
    "plain": plain_pass,
    "ours": ours_pass,
    "zennit": zennit_pass,
    "captum": captum_pass,
}


# -- measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """What was measured of one network; keys are the contenders' labels.

    Attributes:
        network: its name.
        batch: samples in a pass.
        size: height and width of the images.
        plain: seconds of the plain pass at each round's start and end.
        seconds: of each round.
        agreement: cosine of a peer's relevance with ours, the lowest over the samples; None where ours is missing.
        peaks: bytes.
        cannot: why there is no result.
    """

    network: str
    batch: int
    size: int
    plain: list[tuple[float, float]] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    agreement: dict[str, float | None] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    cannot: dict[str, str] = field(default_factory=dict)

    def to_plain(self, contender: Contender) -> list[float] | None:
        """Time over the plain pass's, by round."""
        seconds = self.seconds.get(contender.label)
        return None if not seconds else [s / float(np.mean(p)) for s, p in zip(seconds, self.plain, strict=True)]

    def to_ours(self, contender: Contender) -> list[float] | None:
        """Time over ours with the same composite, by round."""
        seconds, ours = (self.seconds.get(c.label) for c in (contender, Contender("ours", contender.composite)))
        return None if not seconds or not ours else [s / o for s, o in zip(seconds, ours, strict=True)]

    def memory_to_plain(self, contender: Contender) -> float | None:
        """Peak memory over the plain pass's."""
        peak, plain = self.peaks.get(contender.label), self.peaks.get(PLAIN.label)
        return None if not peak or not plain else peak / plain

    def differs(self, contender: Contender) -> bool:
        """Whether a peer computed something else than we do."""
        agreement = self.agreement.get(contender.label)
        return agreement is not None and agreement < SAME


def measure_times(measured: Measured, forms: Forms, contenders: Sequence[Contender], rounds: int) -> None:
    """One warm-up of each contender, then the rounds; contenders that fail in the warm-up are left out."""
    inputs, targets = forms.network.batch_of(forms.size)
    with progress(f"{measured.network}, times", (len(contenders) + 1) + rounds * (len(contenders) + 2)) as step:
        able = warm_up(measured, forms, contenders, inputs, targets, step)
        for number in range(rounds):
            before = timed(PLAIN, forms, inputs, targets)
            step(1)
            found = {}
            for contender in order(able, number, rounds):
                found[contender.label] = timed(contender, forms, inputs, targets)
                step(1)
            measured.plain.append((before, timed(PLAIN, forms, inputs, targets)))
            step(1 + len(contenders) - len(able))
            for label, seconds in found.items():
                measured.seconds.setdefault(label, []).append(seconds)


def warm_up(
    measured: Measured,
    forms: Forms,
    contenders: Sequence[Contender],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    step: Callable[[int], None],
) -> list[Contender]:
    """Those that can, with what the others say and how far peers agree with us noted."""
    ours: dict[str, torch.Tensor] = {}
    able = []
    for contender in (PLAIN, *contenders):
        try:
            with PASSES[contender.tool](forms, contender.composite) as call:
                relevance = call(inputs, targets)
        except Exception as error:  # noqa: BLE001 - a library may fail on a network in any way; the reason is reported
            measured.cannot[contender.label] = reason(error)
            continue
        finally:
            step(1)
        if contender.tool == "ours":
            ours[contender.composite] = relevance
        elif contender != PLAIN:
            measured.agreement[contender.label] = agreement(relevance, ours.get(contender.composite))
        if contender != PLAIN:
            able.append(contender)
    return able


def agreement(relevance: torch.Tensor, ours: torch.Tensor | None) -> float | None:
    """Lowest cosine over the samples, without sign: captum starts at the logit's value where we start at one."""
    if ours is None:
        return None
    cosine = F.cosine_similarity(relevance.double().flatten(1), ours.double().flatten(1)).abs().min()
    return float(cosine) if torch.isfinite(cosine) else 0.0


def order(contenders: Sequence[Contender], number: int, rounds: int) -> list[Contender]:
    """Rotated a little further each round, and reversed every other time."""
    shift = number * len(contenders) // rounds
    turned = [*contenders[shift:], *contenders[:shift]]
    return turned[::-1] if number % 2 else turned


def timed(contender: Contender, forms: Forms, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Seconds of one pass."""
    with PASSES[contender.tool](forms, contender.composite) as call:
        # nobody pays for the cycles that another left behind
        gc.collect()
        start = time.perf_counter()
        call(inputs, targets)
        return time.perf_counter() - start


def measure_memory(measured: Measured, forms: Forms, contenders: Sequence[Contender], threads: int) -> None:
    """Peak of each contender, in a process of its own."""
    asked = [PLAIN, *(c for c in contenders if c.label not in measured.cannot)]
    with progress(f"{measured.network}, memory", len(asked)) as step:
        for contender in asked:
            found = peak_in_child(contender, forms, threads)
            if "bytes" in found:
                measured.peaks[contender.label] = found["bytes"]
            else:
                measured.cannot[f"{contender.label}, memory"] = found["cannot"]
            step(1)


def peak_in_child(contender: Contender, forms: Forms, threads: int) -> dict[str, Any]:
    """``bytes``, or ``cannot`` with the reason."""
    arguments = [forms.network.name, contender.tool, contender.composite, str(forms.size), str(threads)]
    child = subprocess.run([sys.executable, __file__, "peak", *arguments], capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(child.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        said = child.stderr.strip().splitlines()[-1:]
        return {"cannot": ": ".join([f"the measuring process ended with {child.returncode}", *said])}
    return found


def peak_bytes(contender: Contender, forms: Forms) -> int:
    """Most bytes that tensors made in one pass held at a time; a pass of one sample goes before.

    Summed from the allocations and frees that PyTorch's profiler records, not read off the resident set: the sum is
    the same to the byte in each run, and knows nothing of allocators that keep or split what they were given back. What
    oneDNN takes for itself inside an operation is not in it. The events are not among those the profiler hands out
    publicly unless they happened outside all operations, hence the raw results.
    """
    inputs, targets = forms.network.batch_of(forms.size)
    with PASSES[contender.tool](forms, contender.composite) as call:
        call(inputs[:1], targets[:1])
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            call(inputs, targets)
    events = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(changes).max())


def reason(error: BaseException) -> str:
    """First line of what an exception says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, drawn only between measurements: a drawing thread would take their time."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(description, total=total)
        bar.refresh()

        def step(count: int) -> None:
            bar.advance(task, count)
            bar.refresh()

        yield step


# -- reporting -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """A goal and what came of it; a figure that is not a number, where nothing could be measured, misses it."""

    what: str
    found: float
    goal: float
    at_least: bool = False

    @property
    def ok(self) -> bool:
        """Whether the goal was reached."""
        return self.found >= self.goal if self.at_least else self.found <= self.goal

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.goal:g} " + ("[green]ok[/]" if self.ok else "[red]missed[/]")


def show(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str) -> None:
    """Print a table whose cells wrap where the terminal is narrow: a figure that is cut short would be another."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)


def show_times(measured: Measured, contenders: Sequence[Contender]) -> list[Verdict]:
    """Print the table of times; the goals' verdicts."""
    verdicts, rows = [], []
    for composite in composites_of(contenders):
        ours, zennit, captum = (Contender(tool, composite) for tool in ("ours", "zennit", "captum"))
        name = f"{measured.network} {composite}"
        goal = TIME_GOALS_OF_NETWORK.get((measured.network, composite), TIME_GOALS.get(composite))
        own = verdict(f"{name}: time / plain", measured.to_plain(ours) or [np.nan], goal)
        ahead = None if measured.differs(zennit) else measured.to_ours(zennit)
        rival = verdict(f"{name}: zennit's time / ours", ahead, ZENNIT_GOAL, at_least=True)
        verdicts += [v for v in (own, rival) if v is not None]
        rows.append(
            [
                composite,
                time_cell(measured, ours, contenders),
                own or "",
                time_cell(measured, zennit, contenders),
                spread(ahead) if ahead else "-",
                rival or "",
                time_cell(measured, captum, contenders),
            ]
        )
    plain = np.array(measured.plain)
    drift = float(np.median(np.abs(plain[:, 1] / plain[:, 0] - 1)))
    title = (
        f"{measured.network}: time / plain pass, {measured.batch} images of {measured.size} px, {len(plain)} rounds, "
        f"plain {np.median(plain):.3g} s, off by {100 * drift:.0f} % from a round's start to its end"
    )
    show(("", "ours", "goal", "zennit", "zennit / ours", "goal", "captum"), rows, title)
    show_notes(measured)
    return verdicts


def show_memory(measured: Measured, contenders: Sequence[Contender]) -> list[Verdict]:
    """Print the table of memory; the goals' verdicts."""
    verdicts, rows = [], []
    for composite in composites_of(contenders):
        ours, zennit, captum = (Contender(tool, composite) for tool in ("ours", "zennit", "captum"))
        ratio = measured.memory_to_plain(ours)
        own = verdict(f"{measured.network} {composite}: memory / plain", [ratio or np.nan], MEMORY_GOAL)
        verdicts += [own] if own is not None else []
        cells = [memory_cell(measured, contender, contenders) for contender in (ours, zennit, captum)]
        rows.append([composite, cells[0], own or "", *cells[1:]])
    plain = measured.peaks.get(PLAIN.label)
    title = f"{measured.network}: peak memory / plain pass" + (f", plain {plain / 2**20:.1f} MiB" if plain else "")
    show(("", "ours", "goal", "zennit", "captum"), rows, title)
    show_notes(measured, memory=True)
    return verdicts


def composites_of(contenders: Sequence[Contender]) -> list[str]:
    """Each once, in order."""
    return list(dict.fromkeys(contender.composite for contender in contenders))


def verdict(what: str, found: Sequence[float] | None, goal: float | None, *, at_least: bool = False) -> Verdict | None:
    """Of the median; None where there is no goal or nothing to compare with it."""
    return None if goal is None or not found else Verdict(what, float(np.median(found)), goal, at_least)


def spread(values: Sequence[float]) -> str:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.2f} ({low:.2f}, {high:.2f})"


def time_cell(measured: Measured, contender: Contender, asked: Sequence[Contender]) -> str:
    """Ratio to the plain pass, or why there is none."""
    ratios = measured.to_plain(contender)
    if ratios:
        return spread(ratios) + (" ≠" if measured.differs(contender) else "")
    return "cannot" if contender in asked else "-"


def memory_cell(measured: Measured, contender: Contender, asked: Sequence[Contender]) -> str:
    """Ratio to the plain pass, or why there is none."""
    ratio = measured.memory_to_plain(contender)
    if ratio:
        return f"{ratio:.2f}" + (" ≠" if measured.differs(contender) else "")
    return "cannot" if contender in asked else "-"


def show_notes(measured: Measured, memory: bool = False) -> None:
    """Print why cells are empty or not comparable."""
    console = Console(soft_wrap=True)
    for label, text in measured.cannot.items():
        if label.endswith(", memory") == memory:
            console.print(f"{label}: cannot: {text}", markup=False, highlight=False)
    for label, found in measured.agreement.items():
        if found is not None and found < SAME and not memory:
            console.print(f"{label}: ≠, cosine {found:.2f} with our relevance", markup=False, highlight=False)
        elif found is None and not memory:
            console.print(f"{label}: not compared with our relevance, there is none", markup=False, highlight=False)


def show_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print the goals that were missed, and how many there were."""
    missed = [verdict for verdict in verdicts if not verdict.ok]
    rows = [[v.what, "cannot" if np.isnan(v.found) else f"{v.found:.2f}", v] for v in missed]
    title = f"goals: {len(verdicts) - len(missed)} ok, {len(missed)} missed"
    if rows:
        show(("", "measured", "goal"), rows, title)
    else:
        Console().print(title)


def record(measured: Measured, contenders: Sequence[Contender]) -> dict[str, Any]:
    """Raw figures and the ratios made of them."""
    ratios = {c.label: measured.to_plain(c) for c in contenders}
    quartiles = {label: np.quantile(r, (0.25, 0.5, 0.75)).tolist() for label, r in ratios.items() if r}
    memory = {c.label: measured.memory_to_plain(c) for c in contenders if c.label in measured.peaks}
    return asdict(measured) | {"time_to_plain_quartiles": quartiles, "memory_to_plain": memory}


def machine(threads: int) -> dict[str, Any]:
    """Where and with what this was measured."""
    packages = {}
    for name in ("secateur", "torch", "torchvision", "zennit", "captum"):
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "cpu": cpu_model(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg(),
        "threads": threads,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages,
    }


def cpu_model() -> str:
    """Name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# -- command line ----------------------------------------------------------------------------------------------------

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    networks: Annotated[str, typer.Option(help="Which, with commas between.")] = ",".join(NETWORKS),
    composites: Annotated[str, typer.Option(help="Which, with commas between.")] = ",".join(
        dict.fromkeys(CNN_COMPOSITES + TRANSFORMER_COMPOSITES)
    ),
    rounds: Annotated[int | None, typer.Option(min=1, help=f"Default {FULL_ROUNDS}; {QUICK_ROUNDS} if quick.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of PyTorch.")] = 2,
    peers: Annotated[bool, typer.Option(help="Measure zennit and captum too.")] = True,
    memory: Annotated[bool, typer.Option(help="Measure peak memory too.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Small images, few rounds: whether it runs.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Measure what relevance costs, as ratios to a plain forward and backward pass."""
    if context.invoked_subcommand is not None:
        return
    chosen = [NETWORKS[name] for name in names(networks, list(NETWORKS), "--networks")]
    wanted = names(composites, [*CNN_COMPOSITES, *TRANSFORMER_COMPOSITES], "--composites")
    size = QUICK_SIZE if quick else FULL_SIZE
    rounds = rounds or (QUICK_ROUNDS if quick else FULL_ROUNDS)
    torch.set_num_threads(threads)
    report: dict[str, Any] = {"machine": machine(threads), "rounds": rounds, "quick": quick, "networks": {}}
    verdicts: list[Verdict] = []
    for network in chosen:
        contenders = contenders_for(network, wanted, peers)
        if not contenders:
            continue
        measured, forms = Measured(network.name, network.batch, size), Forms(network, size)

        def keep(measured: Measured = measured, contenders: Sequence[Contender] = contenders) -> None:
            report["networks"][measured.network] = record(measured, contenders)
            if json_file is not None:
                write_json(json_file, report)

        measure_times(measured, forms, contenders, rounds)
        verdicts += show_times(measured, contenders)
        keep()
        if memory:
            measure_memory(measured, forms, contenders, threads)
            verdicts += show_memory(measured, contenders)
            keep()
    show_verdicts(verdicts)


def names(given: str, known: Sequence[str], option: str) -> list[str]:
    """The names in a list with commas."""
    found = [name.strip() for name in given.split(",") if name.strip()]
    for name in found:
        if name not in known:
            raise typer.BadParameter(f"unknown '{name}'; known: {', '.join(dict.fromkeys(known))}", param_hint=option)
    return found


@app.command("peak", hidden=True)
def peak(network: str, tool: str, composite: str, size: int, threads: int) -> None:
    """Write the peak memory of one contender to standard output, as JSON."""
    torch.set_num_threads(threads)
    found: dict[str, Any]
    try:
        found = {"bytes": peak_bytes(Contender(tool, composite), Forms(NETWORKS[network], size))}
    except Exception as error:  # noqa: BLE001 - the reason is reported, as in the warm-up
        found = {"cannot": reason(error)}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    app()
