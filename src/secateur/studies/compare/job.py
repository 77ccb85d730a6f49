"""What compare does, checked with data and network open; a dry run stops there and says what would be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from secateur.criteria import get, parse
from secateur.data import LabelledImages, ReferenceSet
from secateur.experiments import Resources
from secateur.pipeline.estimate import Estimate, duration, forward_seconds, removal_seconds, scoring_seconds
from secateur.pipeline.jobs import check_budget, subject, training_seconds
from secateur.pipeline.run import Prepared
from secateur.pipeline.schedules import targets
from secateur.selection import Budget
from secateur.structure import trace
from secateur.studies.compare.cells import MEASURE, UNPRUNED, CompareCell
from secateur.studies.compare.comparing import check_compare
from secateur.studies.compare.study import CompareStudy
from secateur.studies.compare.work import measured_images


@dataclass(frozen=True, eq=False)
class CompareJob:
    """Criteria to be compared.

    Attributes:
        study: the comparison.
        resources: that hold its network and data.
        prepared: these.
        cells: that prune, without those that take times.
    """

    study: CompareStudy
    resources: Resources
    prepared: Prepared
    cells: tuple[CompareCell, ...]

    @classmethod
    def of(cls, study: CompareStudy) -> Self:
        """Check a request for a comparison; whether budgets can be reached is found by tracing the network.

        Raises:
            RequestError: for whatever would stop the work.
        """
        resources = Resources()
        study.check()
        bench = check_compare(study, resources)
        prepared, asked = resources.get(study.prepared), study.settings.compare.targets
        cells = tuple(cell for cell in study.cells() if cell.stage == MEASURE and cell.criterion != UNPRUNED)
        if asked.kind != "ratio":
            for variant, name in dict.fromkeys((cell.variant, cell.subset_name) for cell in cells):
                for share in asked.budgets if variant is not None else ():
                    assert variant is not None
                    structure = bench.tasks[name].structure
                    check_budget(prepared, structure, Budget.of(asked.kind, share), variant)
        return cls(study, resources, prepared, cells)

    @property
    def networks(self) -> int:
        """That are made."""
        return len(self.cells) * len(self.study.settings.compare.targets.budgets)

    def description(self) -> list[str]:
        """See `Job.description`."""
        settings = self.study.settings
        variants, targets_ = settings.compare.variants, settings.compare.targets
        subsets = f" × {len(variants.subsets)} subsets of classes" if variants.subsets else ""
        lines = [
            subject(self.prepared),
            f"compare {len(variants.criteria)} criteria × {len(variants.seeds)} seeds{subsets} under each strategy: "
            f"{len(self.cells)} cells, {self.networks} networks at {len(targets_.budgets)} budgets of {targets_.kind}",
            f"measure each on {len(self._images):,} {settings.compare.sampling.split} images",
        ]
        if settings.finetune.epochs:
            lines.append(f"measure again after {settings.finetune.epochs} epochs of fine-tuning")
        return lines

    @property
    def _images(self) -> LabelledImages:
        asked = self.study.settings.compare
        return measured_images(getattr(self.prepared.data, asked.sampling.split), asked)

    def estimate(self) -> Estimate:
        """See `Job.estimate`."""
        prepared, settings = self.prepared, self.study.settings
        asked, prune = settings.compare, settings.prune
        image = forward_seconds(prepared.model, prepared.data.test, prepared.device)
        example = prepared.data.test.batch([0])[0].to(prepared.device)
        structure = trace(prepared.model, example, stream=prune.stream)
        reference = ReferenceSet.sample(prepared.data.train, asked.sampling.per_class, asked.variants.seeds[0])
        once: dict[str, float] = {}
        for text in dict.fromkeys(cell.criterion for cell in self.cells if cell.structured):
            name, parameters = parse(text)
            found = scoring_seconds(prepared.model, structure, reference, get(name, **parameters), prune.batch_size)
            if found is None:
                return Estimate(None)
            once[text] = found
        removal = 0.0
        for cell in self.cells:
            if cell.variant is None:
                continue
            shares, scoring = sorted(asked.targets.budgets, reverse=True), once[cell.criterion]
            scorings = 1
            if cell.variant.schedule != "one-shot":
                scorings = len(list(targets([Budget.of(asked.targets.kind, s) for s in shares], cell.variant.step)))
            removal += removal_seconds(cell.variant, scorings, scoring, image, len(reference))
            # the other networks of one scoring are repaired, too
            removal += (len(shares) - 1) * removal_seconds(cell.variant, 0, 0.0, image, len(reference))
        measuring = self.networks * image * len(self._images)
        tuning = self.networks * training_seconds(prepared, settings.finetune.epochs, image)
        parts = [f"removal {duration(removal)}", f"measuring {duration(measuring)}"]
        parts += [f"fine-tuning {duration(tuning)}"] if tuning else []
        return Estimate(removal + measuring + tuning, tuple(parts))
