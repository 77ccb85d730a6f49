"""What has to change in modules so that their own code gives the right sizes when only some units stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secateur.structure.attention import Heads
from secateur.structure.code import ModuleCode
from secateur.structure.corrections import Correction, updated
from secateur.structure.naming import changed_positions, comparison_of, correction_of, factor_of
from secateur.structure.scopes import Factor, Step
from secateur.structure.sizes import Attributes
from secateur.structure.source import Frames, call_path


@dataclass
class Changes:
    """What has to change in modules so that their own code gives the right sizes when only some units stay.

    Attributes:
        attributes: new values of integer attributes, by path and name.
        corrections: of single calls, by path, including those that the module's code runs with already.
        heads: sizes of PyTorch's attention modules, by path.
        code: steps of modules whose code is rewritten, by path.
        impossible: by path, why none of these ways makes a module run.
    """

    attributes: dict[tuple[str, str], int] = field(default_factory=dict)
    corrections: dict[str, tuple[Correction, ...]] = field(default_factory=dict)
    heads: dict[str, Heads] = field(default_factory=dict)
    code: dict[str, dict[str, Any]] = field(default_factory=dict)
    impossible: dict[str, str] = field(default_factory=dict)


def changes(codes: Iterable[ModuleCode], keep: np.ndarray) -> Changes:
    """The changes that modules need; see `Changes`."""
    by_path: dict[str, list[ModuleCode]] = {}
    wishes: dict[tuple[str, str], set[int]] = {}
    before: dict[tuple[str, str], int] = {}
    for code in codes:
        by_path.setdefault(code.path, []).append(code)
        for key, was, wanted in code.wishes(keep):
            wishes.setdefault(key, set()).add(wanted)
            before[key] = was
    agreed = {key: next(iter(values)) for key, values in wishes.items() if len(values) == 1}
    needs = Changes({key: wanted for key, wanted in agreed.items() if wanted != before[key]})
    for path, calls in by_path.items():
        heads = {sizes for code in calls if (sizes := code.respelled_heads(keep)) is not None}
        if heads:
            needs.heads[path] = heads.pop()
            needs.attributes[path, "num_heads"] = len(needs.heads[path].kept)
            if heads:
                needs.impossible[path] = "is called in several ways"
    for path, calls in by_path.items():
        if any(code.stuck_conditions(keep, needs.attributes) for code in calls):
            needs.impossible[path] = "compares a size that would change"
            continue
        fixed = [code.corrections(keep, needs.attributes) for code in calls]
        factors = [code.changed_factors(keep, needs.attributes) for code in calls]
        baked = any(code.bakes(keep) for code in calls)
        compared = any(code.changed_conditions(keep, needs.attributes) for code in calls)
        if not any(fixed) and not any(factors) and not compared and not baked:
            continue
        written = baked or any(code.is_written for code in calls)
        corrections = None if written else _corrections(calls, fixed, factors, keep, needs.attributes)
        if corrections is not None:
            needs.corrections[path] = updated(calls[0].corrected, corrections)
            continue
        texts = [code.written(f, needs.attributes) for code, f in zip(calls, fixed, strict=True) if not code.broken]
        broken = next((code.broken for code in calls if code.broken), "")
        if broken or any(_steps(text) != _steps(texts[0]) for text in texts[1:]):
            needs.impossible[path] = broken or "is called in several ways"
        else:
            needs.code[path] = texts[0] if all(text == texts[0] for text in texts) else _steps(texts[0])
    return needs


def _steps(code: Mapping[str, Any]) -> dict[str, Any]:
    """Code without the kind of call that it serves: steps that several kinds of calls share serve any call."""
    return {key: value for key, value in code.items() if key not in ("given", "lengths")}


def misfit(codes: Iterable[ModuleCode], keep: np.ndarray, applied: Changes) -> str:
    """Why code does not run correctly with changes that were made for other calls; empty when it does.

    Args:
        codes: what the modules' code does in this call, in the network before it was pruned.
        keep: units that stay.
        applied: the changes.
    """
    by_path: dict[str, list[ModuleCode]] = {}
    for code in codes:
        by_path.setdefault(code.path, []).append(code)
    for path, calls in by_path.items():
        if any(heads != applied.heads.get(path) for c in calls if (heads := c.respelled_heads(keep)) is not None):
            return f"other heads of '{path}' would have to stay"
        if any(code.stuck_conditions(keep, applied.attributes) for code in calls):
            return f"the code of '{path}' compares a size that has changed"
        fixed = [code.corrections(keep, applied.attributes) for code in calls]
        factors = [code.changed_factors(keep, applied.attributes) for code in calls]
        if path in applied.code:
            if any(not code.is_written_as(applied.code[path], f) for code, f in zip(calls, fixed, strict=True)):
                return f"'{path}' runs other code than was recorded when it was traced"
            continue
        if any(code.bakes(keep) for code in calls):
            return f"'{path}' computes a weight"
        known = {(c.path, c.kind, c.names): c for c in applied.corrections.get(path, ())}
        compared = any(code.changed_conditions(keep, applied.attributes) for code in calls)
        if not known and not any(fixed) and not any(factors) and not compared:
            continue
        needed = _corrections(calls, fixed, factors, keep, applied.attributes, known.values())
        if needed is None:
            return f"the code of '{path}' names sizes in a way that cannot be corrected"
        for correction in needed:
            other = known.get((correction.path, correction.kind, correction.names))
            if other is None or not other.covers(correction):
                return f"a line of '{correction.where}' names a size that has changed"
    return ""


def _corrections(
    calls: Sequence[ModuleCode],
    fixed: Sequence[Mapping[int, Step]],
    factors: Sequence[Sequence[Factor]],
    keep: np.ndarray,
    attributes: Attributes,
    known: Iterable[Correction] = (),
) -> tuple[Correction, ...] | None:
    """Corrections of all calls of a module; None when its code cannot be corrected line by line.

    Args:
        calls: the module's calls.
        fixed: per call, the steps that change.
        factors: per call, the factors that change.
        keep: units that stay.
        attributes: integer attributes of the smaller network.
        known: existing corrections; their lines get one in any case.
    """
    corrected = {c.path: {position for position, _ in c.exchanges} for c in known}
    positions: dict[Frames, set[int]] = {
        step.frames: set(corrected[path])
        for code in calls if corrected
        for step in code.steps
        if step.frames and (path := call_path(step.frames)) in corrected
    }  # fmt: skip
    for code, steps in zip(calls, fixed, strict=True):
        for number, step in steps.items():
            frames = code.steps[number].frames
            changed = changed_positions(code.site(number, keep, attributes), step)
            if not frames or changed is None:
                return None
            positions.setdefault(frames, set()).update(changed)
    at_factors = {(factor.frames, factor.side) for of_call in factors for factor in of_call}
    if corrected:
        at_factors |= {(f.frames, f.side) for code in calls for f in code.factors if call_path(f.frames) in corrected}
    compared = {c.frames for code in calls for c in code.changed_conditions(keep, attributes)}
    if corrected:
        compared |= {c.frames for code in calls for c in code.conditions if call_path(c.frames) in corrected}
    by_line: dict[tuple[Any, ...], Correction] = {}
    for code, steps in zip(calls, fixed, strict=True):
        sites = [
            (step.frames, correction_of(code.site(n, keep, attributes), steps.get(n, step), positions[step.frames]))
            for n, step in enumerate(code.steps)
            if step.frames in positions
        ]
        sites += [
            (factor.frames, factor_of(code.site(None, keep, attributes), factor))
            for factor in code.factors
            if (factor.frames, factor.side) in at_factors
        ]
        sites += [
            (condition.frames, comparison_of(code.site(None, keep, attributes), condition))
            for condition in code.conditions
            if condition.frames in compared
        ]
        for frames, correction in sites:
            path = call_path(frames)
            if correction is None or not path or path[0].text != code.text:
                return None
            joined = correction.at(path)
            key = (path, joined.kind, joined.names)
            both = by_line[key].joined(joined) if key in by_line else joined
            if both is None:
                return None
            by_line[key] = both
    # one call cannot be corrected in two ways
    return tuple(by_line.values()) if len({path for path, *_ in by_line}) == len(by_line) else None
