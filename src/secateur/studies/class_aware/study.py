"""The comparison over subsets of classes as a study like the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.core.errors import RequestError
from secateur.experiments import Tables, TextTable, register_study
from secateur.studies.class_aware.findings import class_aware_findings
from secateur.studies.compare.findings import compare_findings
from secateur.studies.compare.study import CompareStudy

if TYPE_CHECKING:
    from secateur.experiments import Finding
    from secateur.reports import Report


@register_study
class ClassAwareStudy(CompareStudy):
    """Criteria side by side for subsets of the classes, beside class-blind scores and at equal latency."""

    name = "class-aware"
    version = 2
    summary = "Criteria for subsets of the classes: gains over class-blind scores, accuracy at equal latency."

    def check(self) -> None:
        """See `Study.check`."""
        super().check()
        if not self.settings.compare.variants.subsets:
            raise RequestError(
                "class-aware pruning is for some classes: give compare.variants.subsets (--subset A,B,C), or "
                "run compare"
            )

    def overview(self, tables: Tables) -> Sequence[TextTable]:
        """Gains and accuracy at equal latency, too."""
        from secateur.studies.class_aware.page import class_aware_tables

        return [*super().overview(tables), *class_aware_tables(tables)]

    def findings(self, tables: Tables) -> Sequence[Finding]:
        """See `Study.findings`."""
        return [*compare_findings(tables), *class_aware_findings(tables)]

    def page(self, tables: Tables) -> Report:
        """See `Study.page`."""
        from secateur.studies.class_aware.page import class_aware_page

        return class_aware_page(tables, self.settings)

    def figures(self, tables: Tables, folder: Path) -> Mapping[str, Path]:
        """Those of a comparison, of subsets and of gains."""
        from secateur.studies.class_aware.page import write_class_aware_figures

        return {**super().figures(tables, folder), **write_class_aware_figures(tables, self.settings, folder)}
