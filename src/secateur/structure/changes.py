"""What modules need so that their own code gives the right sizes when only some units stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secateur.structure.attention import Heads
from secateur.structure.code import ModuleCode
from secateur.structure.corrections import Correction, updated
from secateur.structure.naming import comparison_of, correction_of, factor_of, places_of
from secateur.structure.scopes import Factor, Step
from secateur.structure.sizes import Attributes
from secateur.structure.source import Frames, call_path


@dataclass
class Changes:
    """What modules need so that their code gives the right sizes when only some units stay.

    Attributes:
        attributes: new values of integer attributes, by path and name.
        corrections: of single calls, by path, those included that the module's code runs with already.
        heads: of PyTorch's attention modules, by path.
        code: of modules that are written anew, by path.
        impossible: why a module can be brought to run in none of these ways, by path.
    """

    attributes: dict[tuple[str, str], int] = field(default_factory=dict)
    corrections: dict[str, tuple[Correction, ...]] = field(default_factory=dict)
    heads: dict[str, Heads] = field(default_factory=dict)
    code: dict[str, dict[str, Any]] = field(default_factory=dict)
    impossible: dict[str, str] = field(default_factory=dict)


def changes(codes: Iterable[ModuleCode], keep: np.ndarray) -> Changes:
    """What modules need; see `Changes`."""
    by_path: dict[str, list[ModuleCode]] = {}
    wishes: dict[tuple[str, str], set[int]] = {}
    before: dict[tuple[str, str], int] = {}
    for code in codes:
        by_path.setdefault(code.path, []).append(code)
        for key, was, wanted in code.wishes(keep):
            wishes.setdefault(key, set()).add(wanted)
            before[key] = was
    agreed = {key: next(iter(values)) for key, values in wishes.items() if len(values) == 1}
    made = Changes({key: wanted for key, wanted in agreed.items() if wanted != before[key]})
    for path, calls in by_path.items():
        heads = {found for code in calls if (found := code.respelled_heads(keep)) is not None}
        if heads:
            made.heads[path] = heads.pop()
            made.attributes[path, "num_heads"] = len(made.heads[path].kept)
            if heads:
                made.impossible[path] = "is called in several ways"
    for path, calls in by_path.items():
        if any(code.stuck_conditions(keep, made.attributes) for code in calls):
            made.impossible[path] = "compares a size that is another one then"
            continue
        fixed = [code.corrections(keep, made.attributes) for code in calls]
        factors = [code.changed_factors(keep, made.attributes) for code in calls]
        baked = any(code.bakes(keep) for code in calls)
        compared = any(code.changed_conditions(keep, made.attributes) for code in calls)
        if not any(fixed) and not any(factors) and not compared and not baked:
            continue
        written = baked or any(code.is_written for code in calls)
        corrections = None if written else _corrections(calls, fixed, factors, keep, made.attributes)
        if corrections is not None:
            made.corrections[path] = updated(calls[0].corrected, corrections)
            continue
        texts = [code.written(f, made.attributes) for code, f in zip(calls, fixed, strict=True) if not code.broken]
        broken = next((code.broken for code in calls if code.broken), "")
        if broken or any(_steps(text) != _steps(texts[0]) for text in texts[1:]):
            made.impossible[path] = broken or "is called in several ways"
        else:
            made.code[path] = texts[0] if all(text == texts[0] for text in texts) else _steps(texts[0])
    return made


def _steps(code: Mapping[str, Any]) -> dict[str, Any]:
    """Code without which kind of call it serves: steps that several kinds run serve any."""
    return {key: value for key, value in code.items() if key not in ("given", "lengths")}


def misfit(codes: Iterable[ModuleCode], keep: np.ndarray, applied: Changes) -> str:
    """Why code does not run right with changes that were made for other calls; empty when it does.

    Args:
        codes: what modules' code does in the call in question, in the network before it was pruned.
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
            return f"the code of '{path}' compares a size that is another one now"
        fixed = [code.corrections(keep, applied.attributes) for code in calls]
        factors = [code.changed_factors(keep, applied.attributes) for code in calls]
        if path in applied.code:
            if any(not code.is_written_as(applied.code[path], f) for code, f in zip(calls, fixed, strict=True)):
                return f"'{path}' runs another code than the one that was written down when it was traced"
            continue
        if any(code.bakes(keep) for code in calls):
            return f"'{path}' computes a weight"
        known = {(c.path, c.kind, c.names): c for c in applied.corrections.get(path, ())}
        compared = any(code.changed_conditions(keep, applied.attributes) for code in calls)
        if not known and not any(fixed) and not any(factors) and not compared:
            continue
        needed_ = _corrections(calls, fixed, factors, keep, applied.attributes, known.values())
        if needed_ is None:
            return f"the code of '{path}' names sizes in a way that cannot be corrected"
        for correction in needed_:
            other = known.get((correction.path, correction.kind, correction.names))
            if other is None or not other.covers(correction):
                return f"a line of '{correction.where}' names a size that is another one now"
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
        calls: of the module.
        fixed: per call, the steps that change.
        factors: per call, those that change.
        keep: units that stay.
        attributes: of the smaller network.
        known: corrections of lines for which one is wanted in any case.
    """
    wanted = {c.path: {place for place, _ in c.exchanges} for c in known}
    places: dict[Frames, set[int]] = {
        step.frames: set(wanted[path])
        for code in calls if wanted
        for step in code.steps
        if step.frames and (path := call_path(step.frames)) in wanted
    }  # fmt: skip
    for code, steps in zip(calls, fixed, strict=True):
        for number, step in steps.items():
            frames = code.steps[number].frames
            found = places_of(code.site(number, keep, attributes), step)
            if not frames or found is None:
                return None
            places.setdefault(frames, set()).update(found)
    at_factors = {(factor.frames, factor.side) for found in factors for factor in found}
    if wanted:
        at_factors |= {(f.frames, f.side) for code in calls for f in code.factors if call_path(f.frames) in wanted}
    compared = {c.frames for code in calls for c in code.changed_conditions(keep, attributes)}
    if wanted:
        compared |= {c.frames for code in calls for c in code.conditions if call_path(c.frames) in wanted}
    made: dict[tuple[Any, ...], Correction] = {}
    for code, steps in zip(calls, fixed, strict=True):
        sites = [
            (step.frames, correction_of(code.site(n, keep, attributes), steps.get(n, step), places[step.frames]))
            for n, step in enumerate(code.steps)
            if step.frames in places
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
            both = made[key].joined(joined) if key in made else joined
            if both is None:
                return None
            made[key] = both
    # one call cannot be corrected in two ways
    return tuple(made.values()) if len({path for path, *_ in made}) == len(made) else None
