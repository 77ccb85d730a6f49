"""The comparison of criteria as a study like the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from secateur.core.errors import RequestError
from secateur.experiments import (
    Condition,
    Question,
    Resource,
    Resources,
    Result,
    Study,
    Tables,
    TextTable,
    fingerprint,
    register_study,
    settings_for,
)
from secateur.pipeline.contents import data_digest, weights_digest
from secateur.pipeline.jobs import opened
from secateur.pipeline.requests import check_compare_settings
from secateur.pipeline.run import Prepared
from secateur.pipeline.tracked import log_comparison
from secateur.studies.compare.cells import MEASURE, TIME, UNPRUNED, CompareCell, TimeCell, compare_cells, variants_of
from secateur.studies.compare.settings import CompareStudySettings
from secateur.studies.compare.tables import STORED, assembled, rows_of, write_frames
from secateur.studies.compare.timing import Timer
from secateur.studies.compare.work import Bench

if TYPE_CHECKING:
    from torch import nn

    from secateur.data import ImageData
    from secateur.experiments import Finding
    from secateur.pipeline.settings import Compressed
    from secateur.reports import Report
    from secateur.tracking import Tracking


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and its data that are at hand, in place of names in the settings."""

    model: nn.Module
    data: ImageData
    name: str


@dataclass(frozen=True, eq=False)
class PreparedOf(Resource[Prepared]):
    """Network and data that settings name, opened."""

    settings: CompareStudySettings

    def make(self, resources: Resources) -> Prepared:
        """Open them."""
        return opened(self.settings.recipe)


@dataclass(frozen=True, eq=False)
class BenchOf(Resource[Bench]):
    """Network and data of a study, and what is done with them."""

    settings: CompareStudySettings
    prepared: PreparedOf
    subject: Subject | None = None

    def make(self, resources: Resources) -> Bench:
        """Open them, where they are not at hand."""
        settings, finetune = self.settings, self.settings.finetune
        if self.subject is not None:
            return Bench(self.subject.model, self.subject.data, settings.compare, finetune, settings.prune.stream)
        prepared = resources.get(self.prepared)
        finetune = finetune.model_copy(update={"device": str(prepared.device)})
        return Bench(prepared.model, prepared.data, settings.compare, finetune, settings.prune.stream)


@dataclass(frozen=True, eq=False)
class Fingerprint(Resource[str]):
    """Of network and data."""

    bench: BenchOf

    def make(self, resources: Resources) -> str:
        """Hash of weights, structure, labels, and the first images of each split."""
        bench = resources.get(self.bench)
        return fingerprint(weights_digest(bench.model), data_digest(bench.data))


@dataclass(frozen=True, eq=False)
class TimerOf(Resource[Timer]):
    """What times networks; it keeps the unpruned ones ready."""

    bench: BenchOf

    def make(self, resources: Resources) -> Timer:
        """Make it."""
        return Timer(resources.get(self.bench))


@register_study
class CompareStudy(Study[CompareStudySettings, CompareCell]):
    """Criteria side by side under the same strategy, budgets and seeds.

    Args:
        settings: see `CompareStudySettings`.
        subject: network and data; None: those that the settings name.
        keep: when given, filled with the last seed's pruned network of each criterion at the smallest budget; then the
            work is done in this process.
    """

    name = "compare"
    version = 2
    summary = "Criteria side by side: pruned by the same strategies to the same budgets, over seeds and class subsets."
    settings_type = CompareStudySettings
    tables = STORED
    question = Question(
        "compare",
        "accuracy",
        ("criterion", "scored_on", "strategy"),
        blocks=("subset",),
        average=("budget",),
        conditions=(Condition("criterion", UNPRUNED, equal=False), Condition("finetuned", "False")),
    )
    stages = (MEASURE, TIME)
    alone = frozenset({TIME})

    def __init__(
        self,
        settings: CompareStudySettings,
        subject: Subject | None = None,
        keep: dict[str, Compressed] | None = None,
    ) -> None:
        super().__init__(settings)
        self.prepared = PreparedOf(settings)
        self.bench = BenchOf(settings, self.prepared, subject)
        self._fingerprint, self._timer, self._keep = Fingerprint(self.bench), TimerOf(self.bench), keep

    @property
    def model_name(self) -> str:
        """For the table."""
        return self.settings.model.name if self.bench.subject is None else self.bench.subject.name

    def check(self) -> None:
        """See `Study.check`."""
        settings = self.settings
        check_compare_settings(settings.compare, settings.prune)
        labels = [variant.label for variant, _ in variants_of(settings.compare, settings.prune)]
        if len(set(labels)) < len(labels):
            raise RequestError(
                f"the published protocol and the section prune are both '{labels[0]}' in the table; set "
                "compare.variants.published=false or compare.variants.default=false"
            )

    def dry_run(self) -> Sequence[str]:
        """See `Study.dry_run`."""
        from secateur.studies.compare.job import CompareJob

        job = CompareJob.of(self)
        return [*job.description(), str(job.estimate())]

    def cells(self) -> Sequence[CompareCell]:
        """See `Study.cells`."""
        return compare_cells(self.settings.compare, self.settings.prune)

    def sections(self, stage: str) -> Mapping[str, Any]:
        """Times depend on how they are taken, measurements do not."""
        found = settings_for(self.settings)
        timing = {"compare.timing": found.pop("compare.timing")}
        return found | timing if stage == TIME else found

    def inputs(self, cell: CompareCell, resources: Resources) -> Mapping[str, str]:
        """Network and data; of times also where they are taken."""
        found = {"network and data": resources.get(self._fingerprint)}
        if cell.stage == TIME:
            place = next(resources.get(self.bench).model.parameters()).device
            found["timed on"] = f"{place}, {torch.get_num_threads()} threads"
        return found

    def needs(self, cell: CompareCell) -> Sequence[CompareCell]:
        """Times are of networks that another cell has pruned."""
        return [cell.timed] if isinstance(cell, TimeCell) else []

    def work(self, cell: CompareCell, resources: Resources, earlier: Mapping[CompareCell, Result]) -> Result:
        """See `Study.work`."""
        if isinstance(cell, TimeCell):
            return resources.get(self._timer).result(cell, earlier[cell.timed])
        return resources.get(self.bench).result(cell, self._keep)

    def assemble(self, tables: Tables) -> Tables:
        """Times beside what was measured."""
        return assembled(tables, self.model_name)

    def overview(self, tables: Tables) -> Sequence[TextTable]:
        """Mean accuracy by criterion and budget, a table for each strategy."""
        from secateur.studies.compare.page import summaries

        return summaries(rows_of(tables))

    def log(self, tracking: Tracking, tables: Tables) -> None:
        """See `Study.log`; curves over the budget, too."""
        log_comparison(tracking, rows_of(tables))

    def findings(self, tables: Tables) -> Sequence[Finding]:
        """See `Study.findings`."""
        from secateur.studies.compare.findings import compare_findings

        return compare_findings(tables)

    def page(self, tables: Tables) -> Report:
        """See `Study.page`."""
        from secateur.studies.compare.page import compare_page

        return compare_page(tables, self.settings)

    def figures(self, tables: Tables, folder: Path) -> Mapping[str, Path]:
        """Accuracy over budgets."""
        from secateur.studies.compare.page import write_figures

        return write_figures(rows_of(tables), self.settings, folder)

    def write(self, tables: Tables, folder: Path) -> Mapping[str, Path]:
        """See `Study.write`."""
        return {**write_frames(tables, folder), **self.figures(tables, folder)}
