"""The line beneath each figure and table: what was measured, on what, how often; all of it plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secateur.reports.conditions import Conditions, span
from secateur.reports.rows import number
from secateur.reports.summary import TIMED, Point, rounds_of, seeds_of

if TYPE_CHECKING:
    from secateur.reports.before_after import Measurement

_FEW = 5  # seeds that are named; of more, their number is given


def line(*parts: str) -> str:
    """Parts that are not empty, as one line that begins with a capital.

    Example:
        >>> line("accuracy on 100 samples", "", "2 seeds")
        'Accuracy on 100 samples · 2 seeds'
    """
    text = " · ".join(part for part in parts if part)
    return text[:1].upper() + text[1:]


def seeds(names: Iterable[object]) -> str:
    """Seeds in words, or "".

    Example:
        >>> seeds([0]), seeds([0, 1]), seeds(range(9)), seeds([])
        ('seed 0', '2 seeds (0, 1)', '9 seeds', '')
    """
    distinct = list(dict.fromkeys(str(name) for name in names))
    if len(distinct) < 2:
        return f"seed {distinct[0]}" if distinct else ""
    return f"{len(distinct)} seeds" + (f" ({', '.join(distinct)})" if len(distinct) <= _FEW else "")


def of_points(
    points: Sequence[Point], samples: Mapping[str, int], conditions: Conditions, *, timed: bool = False
) -> str:
    """Of a figure drawn from rows of a comparison: data, test samples, seeds and reference samples.

    Args:
        points: those drawn, from `secateur.reports.summary.aggregate`.
        samples: test samples of each subset, see `secateur.reports.summary.samples_by_subset`.
        conditions: of the report, for what the rows do not say.
        timed: whether times are shown, too.
    """
    subsets = dict.fromkeys(run[0] for point in points for run in point["runs"])
    counts = [samples[name] for name in subsets if name in samples]
    data = list(dict.fromkeys(point["dataset"] for point in points if point["dataset"]))
    several = f"{len(subsets)} subsets of classes" if len(subsets) > 1 else ""
    # a count for all classes says nothing of subsets
    whole = conditions if counts or not any(name != "all" for name in subsets) else _without_samples(conditions)
    return line(
        whole.measured(counts if len(counts) == len(subsets) else (), data),
        several,
        seeds(seeds_of(points) or conditions.seeds),
        conditions.references(),
        times(points, conditions) if timed else "",
    )


def times(points: Sequence[Point], conditions: Conditions) -> str:
    """How the times of points were taken; "" where none was."""
    shown = [prefix for name, prefix in TIMED.items() if any(point[name] is not None for point in points)]
    if not shown and all(point["latency_ms"] is None for point in points):
        return ""
    rounds = [count for prefix in shown or ["latency"] for count in rounds_of(points, prefix)]
    return conditions.timed([count for count in rounds if count > 0])


def of_stages(stages: Sequence[Measurement | None], conditions: Conditions, *, timed: bool = True) -> str:
    """Of figures of the network before and after pruning; says so where both saw different test sets."""
    known = [stage for stage in stages if stage is not None]
    counts = [stage.samples for stage in known if stage.samples]
    measured = conditions.measured(counts)
    if len(set(counts)) > 1:
        measured += " (before and after on different samples: not comparable)"
    latency = ""
    if timed and any(stage.latency_ms is not None for stage in known):
        merged = conditions if not known else _timing(known, conditions)
        latency = merged.timed(
            _rounds(known), next((s.latency_batch for s in reversed(known) if s.latency_batch), None)
        )
    return line(measured, seeds(conditions.seeds), conditions.references(), latency)


def of_classes(names: Iterable[str], stages: Sequence[Measurement | None], conditions: Conditions) -> str:
    """Of accuracies by class: the test set, and how many samples each class has."""
    counts = [conditions.class_samples[name] for name in names if name in conditions.class_samples]
    return line(of_stages(stages, conditions, timed=False), f"{span(counts)} of each class" if counts else "")


def of_scores(conditions: Conditions) -> str:
    """Of a choice of units: on which data, by which samples and seeds."""
    what, data = conditions.references(), f" of {conditions.data}" if conditions.data else ""
    return line(f"units scored on {what}{data}" if what else conditions.data, seeds(conditions.seeds))


def of_maps(conditions: Conditions) -> str:
    """Of heat maps: the composite, and where the images come from."""
    where = f"{conditions.split} samples of {conditions.data}" if conditions.split else conditions.data
    return line(f"composite {conditions.composite}" if conditions.composite else "", where if conditions.data else "")


def of_work(conditions: Conditions) -> str:
    """Of the time that scoring, cutting and training take: the device, and the samples that were scored on."""
    threads = "" if conditions.threads is None else f"{conditions.threads} thread{'s' * (conditions.threads > 1)}"
    return line(conditions.device, threads, of_scores(conditions))


def counted(counts: Iterable[Any], words: str) -> str:
    """How many pairs or runs are behind figures, or "".

    Example:
        >>> counted([50, 20, None], "runs behind each mean")
        '20 to 50 runs behind each mean'
    """
    found = [int(known) for count in counts if (known := number(count))]
    return f"{span(found)} {words}" if found else ""


def comparable(before: Measurement, after: Measurement) -> bool:
    """Whether both were measured on equally many samples, as far as is known."""
    return before.samples is None or after.samples is None or before.samples == after.samples


def _rounds(stages: Sequence[Measurement]) -> list[int]:
    own = [stage.latency_rounds for stage in stages if stage.latency_rounds]
    return own or [stage.latency_relative.rounds for stage in stages if stage.latency_relative is not None]


def _timing(stages: Sequence[Measurement], conditions: Conditions) -> Conditions:
    threads = next((stage.latency_threads for stage in reversed(stages) if stage.latency_threads), None)
    return conditions if threads is None else replace(conditions, threads=threads)


def _without_samples(conditions: Conditions) -> Conditions:
    return replace(conditions, samples=None)
