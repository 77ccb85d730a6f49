"""Pruning in steps with training between them, as a study like the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from secateur.core.errors import RequestError, check_distinct
from secateur.criteria import get, parse
from secateur.experiments import (
    Condition,
    Question,
    Resources,
    Result,
    Study,
    Tables,
    TextTable,
    register_study,
    settings_for,
    write_table,
)
from secateur.pipeline.requests import check_inputs, check_settings, check_trained
from secateur.studies.stepwise.cells import PRUNE, TIME, UNPRUNED, StepCell, TimeCell, step_cells
from secateur.studies.stepwise.settings import VERSION, StepwiseSettings
from secateur.studies.stepwise.tables import STORED, TUNED, assembled
from secateur.studies.stepwise.work import Bench, BenchOf
from secateur.tracking import check_trackers

if TYPE_CHECKING:
    from secateur.experiments import Finding
    from secateur.reports import Report


@register_study
class StepwiseStudy(Study[StepwiseSettings, StepCell]):
    """Criteria side by side, when a network is pruned and trained in turn.

    Sources: Yeom et al., "Pruning by explaining" (2021), and coursework on skin lesions that follows it.
    """

    name = "stepwise"
    version = VERSION
    summary = "Pruned and fine-tuned in turn, step by step: accuracy, recall of each class, cost, by criterion."
    settings_type = StepwiseSettings
    tables = STORED
    question = Question(
        "steps",
        "accuracy",
        ("criterion", "protocol"),
        average=("step",),
        conditions=(Condition("stage", TUNED),),
    )
    stages = (PRUNE, TIME)
    alone = frozenset({TIME})
    watched: ClassVar[str | None] = None
    """The class whose recall is named in tables and findings; None: the one with the lowest."""

    def __init__(self, settings: StepwiseSettings) -> None:
        super().__init__(settings)
        self.bench = BenchOf(settings)

    def check(self) -> None:
        """See `Study.check`."""
        settings = self.settings
        for section, field in (("data", "source"), ("model", "name")):
            if field not in getattr(settings, section).model_fields_set:
                raise RequestError(
                    f"study '{self.name}' needs {section}.{field}; for example: --set data.source=cifar10 "
                    "--set model.name=resnet20-cifar10"
                )
        check_inputs(settings.recipe)
        check_trackers(settings.tracking.trackers)
        if not settings.train.epochs:
            check_trained(settings.model)
        check_distinct("variants.seeds", settings.variants.seeds)
        check_distinct("names of variants.protocols", [protocol.name for protocol in settings.variants.protocols])
        if settings.train.distillation is not None:
            raise RequestError("the unpruned network has no teacher; leave train.distillation out")
        distillation = settings.finetune.distillation
        if distillation is not None and distillation.teacher == "masked":
            raise RequestError(
                "a masked teacher is as large as the pruned network, which gets smaller step by step; set "
                "finetune.distillation.teacher=unpruned"
            )
        for protocol in settings.variants.protocols:
            check_settings(protocol.prune)
            check_distinct(f"criteria of protocol '{protocol.name}'", protocol.criteria)
            for text in protocol.criteria:
                name, parameters = parse(text)
                get(name, **parameters)

    def dry_run(self) -> Sequence[str]:
        """See `Study.dry_run`."""
        self.check()
        return Bench(self.settings, train=False).description()

    def cells(self) -> Sequence[StepCell]:
        """See `Study.cells`."""
        return step_cells(self.settings.variants, self.settings.timing)

    def sections(self, stage: str) -> Mapping[str, Any]:
        """Times depend on how they are taken, measurements do not."""
        found = settings_for(self.settings)
        timing = {"timing": found.pop("timing")}
        return found | timing if stage == TIME else found

    def inputs(self, cell: StepCell, resources: Resources) -> Mapping[str, str]:
        """Network and data; of times also where they are taken."""
        bench = resources.get(self.bench)
        found = {"network and data": bench.fingerprint}
        if cell.stage == TIME:
            found["timed on"] = f"{bench.device}, {torch.get_num_threads()} threads"
        return found

    def needs(self, cell: StepCell) -> Sequence[StepCell]:
        """Times are of networks that another cell has pruned."""
        return [cell.timed] if isinstance(cell, TimeCell) else []

    def work(self, cell: StepCell, resources: Resources, earlier: Mapping[StepCell, Result]) -> Result:
        """See `Study.work`."""
        bench = resources.get(self.bench)
        if isinstance(cell, TimeCell):
            return bench.times(cell, earlier[cell.timed])
        return bench.result(cell)

    def assemble(self, tables: Tables) -> Tables:
        """Times beside what was measured."""
        return assembled(tables)

    def overview(self, tables: Tables) -> Sequence[TextTable]:
        """Accuracy after all steps, by criterion."""
        from secateur.studies.stepwise.findings import overview

        return overview(tables, self.watched)

    def findings(self, tables: Tables) -> Sequence[Finding]:
        """See `Study.findings`."""
        from secateur.studies.stepwise.findings import stepwise_findings

        return stepwise_findings(tables, self.watched)

    def page(self, tables: Tables) -> Report:
        """See `Study.page`."""
        from secateur.studies.stepwise.page import stepwise_page

        return stepwise_page(tables, self.settings, self.watched)

    def figures(self, tables: Tables, folder: Path) -> Mapping[str, Path]:
        """The curves."""
        from secateur.studies.stepwise.page import write_figure

        if not (tables["steps"]["criterion"] != UNPRUNED).any():
            return {}
        return {"figure": write_figure(tables, self.settings, folder / "steps.svg")}

    def write(self, tables: Tables, folder: Path) -> Mapping[str, Path]:
        """Tables as CSV and Parquet, and the curves."""
        names = ("steps", "classes", "plans", "splits")
        written = {name: write_table(tables[name], folder / f"{name}.csv") for name in names if len(tables[name])}
        return {**written, **self.figures(tables, folder)}
