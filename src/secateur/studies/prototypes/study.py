"""Backbone and prototypes of a prototype network, pruned alone and together, as a study like the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.core.errors import RequestError, check_distinct
from secateur.criteria import get, parse
from secateur.data import check_source
from secateur.experiments import (
    Condition,
    Question,
    Resources,
    Result,
    Study,
    Tables,
    TextTable,
    register_study,
    write_table,
)
from secateur.models.settings import check_model_name
from secateur.pipeline.requests import check_settings
from secateur.studies.prototypes.cells import PRUNE, TRAIN, PrototypeCell, PrunedCell, prototype_cells
from secateur.studies.prototypes.settings import PrototypeStudySettings
from secateur.studies.prototypes.tables import STORED, TUNED
from secateur.studies.prototypes.work import Bench, BenchOf, weights_of
from secateur.tracking import check_trackers

if TYPE_CHECKING:
    from secateur.experiments import Finding
    from secateur.reports import Report


@register_study
class PrototypeStudy(Study[PrototypeStudySettings, PrototypeCell]):
    """Relevance, weight, prototypes, and both together, at the same MACs.

    A prototype network is trained for each seed. Prototypes go by the purity of their nearest patches (Chen et al.,
    2019) or by another rule, units of the backbone by a criterion; then the last layer is trained, then all of it.
    """

    name = "prototypes"
    version = 1
    summary = "Prototype networks: backbone and prototypes pruned alone and together, at the same MACs."
    settings_type = PrototypeStudySettings
    tables = STORED
    question = Question(
        "measured",
        "accuracy",
        ("way",),
        average=("budget",),
        conditions=(Condition("stage", TUNED), Condition("way", "none", equal=False)),
    )
    stages = (TRAIN, PRUNE)

    def __init__(self, settings: PrototypeStudySettings) -> None:
        super().__init__(settings)
        self.benches = {seed: BenchOf(settings, seed) for seed in settings.variants.seeds}

    def check(self) -> None:
        """See `Study.check`."""
        settings, asked = self.settings, self.settings.variants
        if "source" not in settings.data.model_fields_set:
            raise RequestError(
                f"study '{self.name}' needs data.source; for example: --recipe prototype-study-lesions, or --set "
                "data.source=fashion-mnist"
            )
        check_source(settings.data)
        check_model_name(settings.network.backbone)
        check_trackers(settings.tracking.trackers)
        check_distinct("variants.seeds", asked.seeds)
        check_distinct("variants.macs", asked.macs)
        check_distinct("names of variants.ways", [way.name for way in asked.ways])
        check_settings(settings.backbone)
        if settings.backbone.schedule == "iterative":
            raise RequestError(
                "backbone.schedule=iterative trains by cross-entropy between its steps, which prototypes do not "
                "survive; set it to rescored or one-shot"
            )
        for way in asked.ways:
            if way.backbone is not None:
                name, parameters = parse(way.backbone)
                get(name, **parameters)

    def dry_run(self) -> Sequence[str]:
        """See `Study.dry_run`."""
        self.check()
        return Bench(self.settings, self.settings.variants.seeds[0]).description()

    def cells(self) -> Sequence[PrototypeCell]:
        """See `Study.cells`."""
        return prototype_cells(self.settings.variants)

    def inputs(self, cell: PrototypeCell, resources: Resources) -> Mapping[str, str]:
        """Data, and the weights that training begins with; what is pruned depends on them by the trained network."""
        if isinstance(cell, PrunedCell):
            return {}
        return {"network and data": resources.get(self.benches[cell.seed]).fingerprint}

    def needs(self, cell: PrototypeCell) -> Sequence[PrototypeCell]:
        """What is pruned was trained before."""
        return [cell.trained] if isinstance(cell, PrunedCell) else []

    def work(self, cell: PrototypeCell, resources: Resources, earlier: Mapping[PrototypeCell, Result]) -> Result:
        """See `Study.work`."""
        bench = resources.get(self.benches[cell.seed])
        if isinstance(cell, PrunedCell):
            return bench.pruned(cell, weights_of(earlier, cell))
        return bench.trained(cell)

    def overview(self, tables: Tables) -> Sequence[TextTable]:
        """Accuracy, cost and purity of each way."""
        from secateur.studies.prototypes.findings import overview

        return overview(tables)

    def findings(self, tables: Tables) -> Sequence[Finding]:
        """See `Study.findings`."""
        from secateur.studies.prototypes.findings import prototype_findings

        return prototype_findings(tables)

    def page(self, tables: Tables) -> Report:
        """See `Study.page`."""
        from secateur.studies.prototypes.page import prototype_page

        return prototype_page(tables, self.settings)

    def figures(self, tables: Tables, folder: Path) -> Mapping[str, Path]:
        """The curves."""
        from secateur.studies.prototypes.page import write_figure

        figure = write_figure(tables, self.settings, folder / "prototypes.svg")
        return {} if figure is None else {"figure": figure}

    def write(self, tables: Tables, folder: Path) -> Mapping[str, Path]:
        """The table as CSV and Parquet, and the curves."""
        written = {"measured": write_table(tables["measured"], folder / "prototypes.csv")}
        return {**written, **self.figures(tables, folder)}
