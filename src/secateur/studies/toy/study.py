"""The 2-D toy study as a study like the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.extras import check_installed
from secateur.experiments import (
    Column,
    Condition,
    Finding,
    Question,
    Resource,
    Resources,
    Result,
    Schema,
    Study,
    Tables,
    register_study,
)
from secateur.studies.toy.cells import ToyCell, toy_cells
from secateur.studies.toy.criteria import criterion_for
from secateur.studies.toy.settings import ToySettings

if TYPE_CHECKING:
    from secateur.reports import Report

_COORDINATES = (
    Column("dataset", str, "`moon`, `circle`, `mult`, `mult-K`"),
    Column("criterion", str, "that ranks the neurons, with its parameters"),
    Column("samples_per_class", int, "reference samples of each class"),
    Column("seed", int, "of the reference samples and the noisy points"),
)

RESULTS = Schema(
    (
        *_COORDINATES,
        Column("evaluated_on", str, "`train`: training points; `test`: the reference samples; `noisy`: unseen points"),
        Column("noise", float, "standard deviation of the noise on unseen points; 0 for the others"),
        Column("stage", str, "`pre`: the unpruned network; `post`: pruned"),
        Column("accuracy", float, "share of points that are classified right", "%"),
        Column("network", str, "`published` or `all-relu`; trained otherwise, with a hash behind it"),
        Column("removed", int, "hidden neurons that went, of 3000"),
    ),
    "one measurement of one pruning",
)

ORDERS = Schema(
    (
        *_COORDINATES,
        Column("order", bytes, "indices of the neurons, the first removed first; 16 bits each, little-endian"),
    ),
    "the pruning order of one pruning",
)


@register_study
class ToyStudy(Study[ToySettings, ToyCell]):
    """What a criterion does to the decision boundary of a network on 2-D points.

    Source: Yeom et al., "Pruning by explaining", Pattern Recognition 2021.
    """

    name = "toy"
    version = 1
    summary = "2-D points: what a criterion does to a decision boundary, over seeds and reference samples."
    settings_type = ToySettings
    tables = {"results": RESULTS, "orders": ORDERS}
    question = Question(
        "results",
        "accuracy",
        ("criterion",),
        blocks=("dataset",),
        average=("samples_per_class",),
        conditions=(Condition("stage", "post"), Condition("evaluated_on", "train")),
    )

    def check(self) -> None:
        """See `Study.check`."""
        self.settings.check()
        check_installed("sklearn", "toy", "the toy study")

    def cells(self) -> Sequence[ToyCell]:
        """See `Study.cells`."""
        return toy_cells(self.settings.grid)

    def shared(self) -> Sequence[Resource[Any]]:
        """The trained networks."""
        from secateur.studies.toy.work import benches

        return benches(self.settings)

    def inputs(self, cell: ToyCell, resources: Resources) -> Mapping[str, str]:
        """Weights, given training points, and all parameters of the criterion, those that the study sets, too."""
        from secateur.studies.toy.work import BenchOf

        bench = resources.get(BenchOf.of(cell.dataset, self.settings))
        found = {"weights": bench.fingerprint, "criterion": _whole(cell.criterion, cell.seed)}
        return found if self.settings.training.data is None else {**found, "training": bench.train.fingerprint}

    def batch(self, cell: ToyCell) -> tuple[str, int]:
        """Prunings of the same data set and seed share noisy points and passes."""
        return cell.dataset, cell.seed

    def work(self, cell: ToyCell, resources: Resources, earlier: Mapping[ToyCell, Result]) -> Result:
        """See `Study.work`."""
        from secateur.studies.toy.work import prune_once

        return prune_once(cell, self.settings, resources)

    def findings(self, tables: Tables) -> Sequence[Finding]:
        """What the published study claims, checked on our means."""
        from secateur.studies.toy.findings import check_claims, summarise

        return check_claims(summarise(tables["results"]))

    def page(self, tables: Tables) -> Report:
        """See `Study.page`."""
        from secateur.studies.toy.page import toy_page

        return toy_page(tables, self.settings)

    def figures(self, tables: Tables, folder: Path) -> Mapping[str, Path]:
        """Accuracy over reference samples."""
        from secateur.reports import save_samples
        from secateur.studies.toy.findings import summarise

        return {"curves": save_samples(summarise(tables["results"]), folder / "accuracy.svg")}

    def write(self, tables: Tables, folder: Path) -> Mapping[str, Path]:
        """``results.csv`` and ``.parquet``; ``ranks.parquet``, where pruning orders are wanted; the figure."""
        from secateur.studies.toy.tables import write_tables

        written = write_tables(tables, folder, ranks=self.settings.output.ranks)
        return {**written, **self.figures(tables, folder)}


@lru_cache(maxsize=4096)
def _whole(criterion: str, seed: int) -> str:
    return repr(criterion_for(criterion, seed))
