"""Writes any result as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch
from pathlib import Path
from typing import Any

from secateur import reports as rp
from secateur.attribution import Relevance
from secateur.core.errors import RequestError
from secateur.evaluation import Evaluation
from secateur.pipeline.explanation import Explanation
from secateur.pipeline.pages import heatmap, layers, measurement, origin, refits, timing_conditions
from secateur.pipeline.settings import Compressed


def report(result: Any, path: str | Path, *, title: str = "", before: Evaluation | None = None,
           after: Evaluation | None = None) -> Path:  # fmt: skip
    """Write a result as one self-contained HTML page, with its record as JSON next to it.

    Args:
        result: the result of `secateur.compress`, the rows of `secateur.compare`, an `Evaluation`, a `Relevance` of
            images, or a list of explanations.
        path: file name that ends in ``.html``.
        title: title of the page; by default it depends on the kind of result.
        before: for a pruned network, the `Evaluation` of the unpruned one.
        after: for a pruned network, its own `Evaluation`.

    Raises:
        RequestError: for any other result or file name, or only one of the two evaluations.

    Example:
        >>> import tempfile, torch, secateur as sc
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        >>> reference = sc.ReferenceSet(torch.randn(8, 4), torch.arange(8) % 2, tuple(range(8)))
        >>> best = sc.compress(net, reference, sc.Budget(units=0.5))
        >>> sc.report(best, f"{tempfile.mkdtemp()}/pruned.html").name
        'pruned.html'
    """
    target = Path(path)
    if target.suffix not in (".html", ".htm"):
        raise RequestError(f"a report is an HTML page; '{path}' should end in .html")
    if (before is None) != (after is None):
        raise RequestError("a report compares the network before and after: give both evaluations, or none")
    page = _page(result)
    if before is not None and after is not None:
        if not isinstance(result, Compressed) or result.structure is None:
            raise RequestError("before= and after= belong to a result of secateur.compress; leave them out")
        units = result.structure.num_units, int(result.plan.keep(result.structure).sum())
        figures = rp.BeforeAfter(measurement(before, units[0]), measurement(after, units[1]))
        held = rp.Conditions(samples=before.samples, **timing_conditions(after.latency))
        page = replace(page, sections=[figures, *page.sections], conditions=held)
    made = origin()
    made["notes"] = [*page.notes, *made["notes"]]
    return rp.write_report(replace(page, title=title or page.title, **made), target)


_PICTURES = 32
"""Heatmaps on a page."""


@singledispatch
def _page(result: Any) -> rp.Report:
    """Title and sections of a result."""
    raise RequestError(
        f"there is no page for a {type(result).__name__}; give what secateur.compress, compare, evaluate or attribute "
        "gave"
    )


@_page.register
def _(result: Compressed) -> rp.Report:
    steps = ", ".join(f"{step.requested:.0%}" for step in result.history)
    return rp.Report(
        f"Pruned by {result.plan.criterion}",
        result.plan.summary,
        sections=[*([] if result.structure is None else [layers(result.structure, result.plan)]), *refits(result.fits)],
        notes=[*result.plan.notes, f"Scored {len(result.history)} time(s), on the way to budgets of {steps}."],
    )


@_page.register
def _(result: Evaluation) -> rp.Report:
    held = rp.Conditions(samples=result.samples, **timing_conditions(result.latency))
    return rp.Report("A network measured", sections=[rp.BeforeAfter(measurement(result, 0))], conditions=held)


@_page.register
def _(result: Relevance) -> rp.Report:
    if result.input.ndim != 4:
        raise RequestError(
            f"heatmaps are drawn for images [N, C, H, W]; these inputs have shape {list(result.input.shape)}"
        )
    maps = result.input.detach().sum(1).double().cpu().numpy()[:_PICTURES]
    said = result.logits.argmax(1).tolist()
    heatmaps = [
        rp.Heatmap(f"input {index}", "", rp.heatmap_png(values), caption=f"the network says class {said[index]}")
        for index, values in enumerate(maps)
    ]
    subtitle = f"{len(maps)} of {len(result.input)} inputs"
    return rp.Report("Relevance of inputs", subtitle, sections=[rp.Heatmaps(heatmaps)])


@_page.register(list)
@_page.register(tuple)
def _(result: Sequence[Any]) -> rp.Report:
    if result and all(isinstance(item, Explanation) for item in result):
        found = [heatmap(item) for item in result]
        return rp.Report("Relevance of images", sections=[rp.Heatmaps(found)])
    if not result or not all(isinstance(row, dict) and "criterion" in row and "accuracy" in row for row in result):
        raise RequestError("there is no page for this list; give the rows of secateur.compare, or explanations")
    return rp.Report(
        f"Criteria compared: {result[0].get('model', 'network')} on {result[0].get('dataset', 'data')}",
        sections=[rp.Comparison(rp.read_rows(rp.ComparisonRow, result))],
    )
