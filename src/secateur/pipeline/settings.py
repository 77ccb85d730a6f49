"""Settings and results of pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from secateur.core.errors import RequestError
from secateur.core.html import table_html
from secateur.selection.budget import check_max_remove, check_min_keep
from secateur.selection.names import AUTO, STRATEGY_NAMES

if TYPE_CHECKING:
    from torch import nn

    from secateur.core.timing import Latency
    from secateur.criteria import Criterion
    from secateur.evaluation import Evaluation
    from secateur.selection import Plan
    from secateur.structure import Structure
    from secateur.surgery import LayerFit


class PruneSettings(BaseModel):
    """Settings of pruning; the defaults were best on our benchmark (see the results page of the docs).

    ``one-shot``: one scoring pass; ``rescored``: score, remove ``step`` of the budget's measure, score again, without
    training; ``iterative``: like ``rescored``, with fine-tuning after each step.

    ``strategy`` ``auto`` is that of the criterion, see `secateur.criteria.Criterion.strategy`, and ``per-layer`` on
    networks with depthwise convolutions.

    ``repair`` works without labels: ``mean`` folds the removed units' mean contributions into biases;
    ``refit`` fits all layers to the outputs of the unpruned network (`secateur.refit`), which also sets the
    statistics of batch norms, so that ``recalibrate`` has no effect.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: Literal["one-shot", "rescored", "iterative"] = "one-shot"
    strategy: str = Field(default=AUTO, description=", ".join((AUTO, *STRATEGY_NAMES)))
    step: float = Field(default=0.02, gt=0, le=1, description="share of the whole removed between two scorings")
    repair: Literal["none", "mean", "refit"] = Field(default="refit", description="repair without training")
    repair_samples: int | None = Field(
        default=None, ge=2, description="training images for it, drawn without labels; null: the reference samples"
    )
    centred: bool = Field(default=False, description="score deviations from a unit's mean activation")
    recalibrate: bool = Field(default=True, description="recompute statistics of batch norms on samples of the repair")
    order: Literal["least", "most"] = "least"
    min_keep: int | float = Field(default=1, description="units that stay in every group; below 1: their share of it")
    max_remove: int | float | dict[str, int | float] | None = Field(
        default=None, description="units to remove at most per scoring, in all or by layer; below 1: a share"
    )
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default=1, description="kept units per group are a multiple of this; auto: one that runs fast here, measured"
    )
    protect: tuple[str, ...] = ()
    skip_first_layers: int = Field(
        default=0, ge=0, description="first weighted layers whose units stay, with those that sums tie to them"
    )
    spare_block_outputs: bool = Field(
        default=False, description="keep the units that residual blocks add to the stream, remove others only"
    )
    stream: bool = Field(default=False, description="allow removing channels of residual streams, which norms run over")
    batch_size: int = Field(default=64, ge=1, description="samples per scoring pass")
    latency_batch: int = Field(default=8, ge=1, description="samples per timed pass, for latency budgets")
    latency_threads: int | None = Field(default=None, ge=1, description="PyTorch threads while timing; null: as set")
    latency_channels_last: bool = Field(default=True, description="time in channels-last memory format")
    latency_table: str | None = Field(default=None, description="JSON file that keeps layer times between runs")

    @field_validator("min_keep")
    @classmethod
    def _units_or_share(cls, value: int | float) -> int | float:
        check_min_keep(value)
        return value

    @field_validator("max_remove")
    @classmethod
    def _number_or_share(cls, value: Any) -> Any:
        check_max_remove(value)
        return value

    @classmethod
    def published(cls, **changes: Any) -> PruneSettings:
        """One-shot, global, raw scores, no repair: the protocol of most published comparisons."""
        return cls(
            **{
                "schedule": "one-shot",
                "strategy": "global",
                "repair": "none",
                "recalibrate": False,
                **changes,
            }
        )

    def of(self, criterion: Criterion, structure: Structure) -> PruneSettings:
        """Settings for one criterion and network, with the criterion's strategy where none is given.

        Networks with depthwise convolutions are ranked per layer: per cost, the accuracy of a MobileNetV2 pruned by LRP
        and Taylor was up to 45 points lower on validation images.
        """
        if self.strategy != AUTO:
            return self
        return self.model_copy(update={"strategy": "per-layer" if structure.depthwise else criterion.strategy})

    def protected(self, structure: Structure) -> tuple[str, ...]:
        """Names of layers and groups whose units all stay.

        They are set by ``protect``, ``skip_first_layers`` and ``spare_block_outputs``.

        Raises:
            RequestError: for unknown names, or where no unit is left to remove.
        """
        outputs = structure.block_outputs if self.spare_block_outputs else ()
        names = (*self.protect, *structure.first_layers(self.skip_first_layers), *outputs)
        if {structure.group(name).name for name in names}.issuperset(group.name for group in structure.groups):
            raise RequestError(
                "no unit can be removed: protect, skip_first_layers and spare_block_outputs keep all; keep fewer"
            )
        return names

    @property
    def label(self) -> str:
        """Short name for tables."""
        names = {"none": "", "mean": "compensated", "refit": "refitted"}
        samples = "" if self.repair == "none" or self.repair_samples is None else f" on {self.repair_samples}"
        recalibrated = self.recalibrate and self.repair != "refit"
        steps = (names[self.repair] + samples, "centred" * self.centred, "recalibrated" * recalibrated)
        extra = "".join(f"+{name}" for name in steps if name)
        return f"{self.schedule}/{self.strategy}{extra}"


@dataclass(frozen=True)
class Step:
    """One scoring, with the requested share and the shares that stay after it.

    Attributes:
        requested: the requested share.
        achieved: shares of units, params and macs; with latency budgets also ``latency_predicted``, and ``latency``
            (measured) at a requested budget.
        note: remark where a latency budget was missed by more than 10 %.
    """

    requested: float
    achieved: dict[str, float]
    note: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Compressed:
    """A pruned network, its plan relative to the original, and the steps of pruning.

    Attributes:
        model: the pruned network.
        plan: the plan, relative to the original.
        history: the scorings.
        seconds: seconds of ``scoring`` (shared by the networks for several budgets) and of ``surgery`` (selecting,
            cutting, repairing; in re-scored schedules for all steps up to this one).
        latency: latency of the original and of the model, measured in turn, for a latency budget.
        structure: structure of the original.
        fits: the refit of each layer, where there was one.
    """

    model: nn.Module
    plan: Plan
    history: tuple[Step, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    latency: tuple[Latency, Latency] | None = None
    structure: Structure | None = None
    fits: tuple[LayerFit, ...] = ()

    def report(
        self, path: str | Path, *, title: str = "", before: Evaluation | None = None, after: Evaluation | None = None
    ) -> Path:
        """Write the result as a page, see `secateur.report`."""
        from secateur.pipeline.reporting import report

        return report(self, path, title=title, before=before, after=after)

    def __repr__(self) -> str:
        seconds = sum(self.seconds.values())
        return (
            f"Compressed({type(self.model).__name__}, {len(self.history)} scoring{'s' * (len(self.history) > 1)}"
            f"{f', {seconds:.1f} s' if seconds else ''}: {self.plan.summary})"
        )

    def _repr_html_(self) -> str:
        """The shares that stay after each scoring as HTML, for notebooks."""
        columns = list(dict.fromkeys(name for step in self.history for name in step.achieved))
        rows = [
            (number, _percent(step.requested), *(_percent(step.achieved.get(name)) for name in columns), step.note)
            for number, step in enumerate(self.history, 1)
        ]
        title = "\n".join([repr(self), *(f"note: {note}" for note in self.plan.notes)])
        return table_html(("scoring", "asked", *columns, ""), rows, title)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"
