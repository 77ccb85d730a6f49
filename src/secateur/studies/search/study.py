"""The search for the attribution that prunes best, as a study like the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.errors import RequestError, check_distinct
from secateur.core.extras import check_installed
from secateur.criteria import get, parse
from secateur.data import check_source
from secateur.experiments import Condition, Question, Resources, Result, Study, Tables, TextTable, register_study
from secateur.models.settings import check_model_name
from secateur.pipeline.requests import check_trained
from secateur.studies.search.cells import MEASURE, TRY, MeasureCell, SearchCell, ShowCell, TrialCell, search_cells
from secateur.studies.search.settings import OPTIMISED, SearchStudySettings
from secateur.studies.search.space import Space
from secateur.studies.search.tables import STORED
from secateur.studies.search.work import Bench, BenchOf
from secateur.tracking import check_trackers

if TYPE_CHECKING:
    from secateur.experiments import Finding
    from secateur.reports import Report


@register_study
class SearchStudy(Study[SearchStudySettings, SearchCell]):
    """Settings of LRP are tried until one prunes a network best, which is then measured beside other criteria.

    Trials run side by side in rounds; what is tried in a round follows from the trials of the rounds before, so that
    the search is the same however it was interrupted, and by however many processes it is done.
    """

    name = "search"
    version = 1
    summary = "Which attribution prunes best: rules by depth searched, the winner measured beside other criteria."
    settings_type = SearchStudySettings
    tables = STORED
    question = Question("measured", "a_pr", ("candidate",), conditions=(Condition("main", "True"),))
    stages = (TRY, MEASURE)

    def __init__(self, settings: SearchStudySettings) -> None:
        super().__init__(settings)
        self.bench = BenchOf(settings)

    def check(self) -> None:
        """See `Study.check`."""
        settings = self.settings
        if "source" not in settings.data.model_fields_set:
            raise RequestError(
                f"study '{self.name}' needs data.source; for example: --recipe search-cifar10, or --set "
                "data.source=cifar10 (optimise --data cifar10)"
            )
        check_installed("optuna", "search", "a search for settings")
        check_source(settings.data)
        check_model_name(settings.model.name)
        check_trained(settings.model)
        check_trackers(settings.tracking.trackers)
        rates = settings.objective.rates
        if rates[0] != 0 or list(rates) != sorted(set(rates)):
            raise RequestError("objective.rates are shares that go, ascending from 0, each once")
        asked = settings.measure
        for name, values in (
            ("measure.criteria", asked.criteria), ("measure.seeds", asked.seeds), ("measure.samples", asked.samples),
            ("measure.sampled", asked.sampled), ("search.seeds", settings.search.seeds),
        ):  # fmt: skip
            check_distinct(name, values)
        for text in (*asked.criteria, *asked.sampled):
            if text != OPTIMISED:
                name, parameters = parse(text)
                get(name, **parameters)
        if OPTIMISED in asked.criteria:
            raise RequestError(f"measure.criteria: '{OPTIMISED}' is measured in any case; leave it out")
        if settings.sampler.kind == "grid" and len(settings.space.softmax) > 1:
            raise RequestError(
                "a grid would try each setting twice on a network without attention; fix space.softmax to one rule"
            )
        if settings.search.split == settings.measured.split:
            raise RequestError(
                f"search.split and measured.split are both '{settings.measured.split}': the winner has to be measured "
                "on images that the search has not seen"
            )

    def dry_run(self) -> Sequence[str]:
        """See `Study.dry_run`."""
        self.check()
        cells = self.cells()
        trials, measured = (sum(isinstance(cell, kind) for cell in cells) for kind in (TrialCell, MeasureCell))
        return Bench(self.settings).description(trials, measured)

    def cells(self) -> Sequence[SearchCell]:
        """See `Study.cells`; there may be fewer settings than trials are asked for."""
        space = Space.of(self.settings.space, self.settings.objective, attention=True)
        size = space.grid_size if self.settings.sampler.kind == "grid" else space.size()
        return search_cells(self.settings, min(self.settings.trials.count, size or self.settings.trials.count))

    def inputs(self, cell: SearchCell, resources: Resources) -> Mapping[str, str]:
        """Network and data."""
        return {"network and data": resources.get(self.bench).fingerprint}

    def sections(self, stage: str) -> Mapping[str, Any]:
        """Trials do not depend on the images of the measurement."""
        found = dict(super().sections(stage))
        if stage == TRY:
            del found["measured"]
        return found

    def needs(self, cell: SearchCell) -> Sequence[SearchCell]:
        """Trials need those of the rounds before, the winner all of them."""
        if isinstance(cell, TrialCell):
            return [TrialCell(number=number) for number in cell.needed(self.settings.sampler.together)]
        assert isinstance(cell, MeasureCell | ShowCell)
        return [TrialCell(number=number) for number in range(cell.found_by)]

    def work(self, cell: SearchCell, resources: Resources, earlier: Mapping[SearchCell, Result]) -> Result:
        """See `Study.work`."""
        bench = resources.get(self.bench)
        rows = [earlier[other].rows["trials"][0] for other in self.needs(cell)]
        if isinstance(cell, TrialCell):
            return bench.trial(cell, rows)
        if isinstance(cell, ShowCell):
            return bench.shown(cell, rows)
        assert isinstance(cell, MeasureCell)
        return bench.measured(cell, rows)

    def overview(self, tables: Tables) -> Sequence[TextTable]:
        """Candidates and the winner."""
        from secateur.studies.search.findings import overview

        return overview(tables, self.settings)

    def findings(self, tables: Tables) -> Sequence[Finding]:
        """See `Study.findings`."""
        from secateur.studies.search.findings import search_findings

        return search_findings(tables, self.settings)

    def page(self, tables: Tables) -> Report:
        """See `Study.page`."""
        from secateur.studies.search.page import search_page

        return search_page(tables, self.settings)

    def figures(self, tables: Tables, folder: Path) -> Mapping[str, Path]:
        """Accuracy over pruning rates, and both objectives where there are two."""
        from secateur.studies.search.page import write_figures

        return write_figures(tables, self.settings, folder)

    def write(self, tables: Tables, folder: Path) -> Mapping[str, Path]:
        """The tables, the winner as a recipe, all trials as a study of Optuna, and the figures."""
        from secateur.studies.search.page import write_results

        return {**write_results(tables, self.settings, folder), **self.figures(tables, folder)}
