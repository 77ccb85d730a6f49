"""What a report knows: frozen records that survive JSON, so that the page can be drawn again later."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from secateur.core.errors import RequestError
from secateur.core.timing import LatencyShare
from secateur.reports.conditions import Conditions

SCHEMA_VERSION = 1

_STRICT = {"extra": "forbid"}
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def _check_base64(what: str, *pictures: str) -> None:
    for picture in pictures:
        if not _BASE64.fullmatch(picture):
            raise RequestError(f"{what} is not base64; give a PNG's bytes in base64, without prefix")


def _nan_if_absent(value: Any) -> Any:
    return math.nan if value is None else value


# JSON has no NaN: a diverged loss is written as null and read back as NaN.
Figure = Annotated[float, BeforeValidator(_nan_if_absent)]


@dataclass(frozen=True)
class Measurement:
    """How good, how large and how fast one network is.

    Attributes:
        accuracy: share of right answers, 0..1.
        balanced_accuracy: mean over classes of the share of right answers, 0..1.
        calibration_error: expected calibration error, 0..1.
        loss: mean loss per sample.
        units: removable units (channels, neurons, heads) that it has; those of layers that are cut together count
            once.
        params: number of parameters.
        macs: multiply-accumulate operations for one input (1 MAC = 2 FLOPs).
        size_bytes: size of the stored weights.
        latency_ms: median time for one batch in milliseconds; ``None`` when not measured.
        latency_quartiles: first and third quartile of that time.
        latency_batch: samples per batch.
        latency_spread: interquartile range over median of the times of the network that others are compared with.
        latency_relative: time as a share of the network's before pruning, timed in turn; ``None`` for that network.
        per_class: accuracy by class name, 0..1.
        samples: that accuracy was measured on; ``None`` where it is not known.
        latency_threads: of PyTorch, or of the runtime.
        latency_rounds: how often it was timed.
    """

    __pydantic_config__ = _STRICT

    accuracy: Figure
    balanced_accuracy: Figure
    calibration_error: Figure
    loss: Figure
    units: int
    params: int
    macs: int
    size_bytes: int
    latency_ms: float | None = None
    latency_quartiles: tuple[float, float] | None = None
    latency_batch: int | None = None
    latency_spread: float | None = None
    latency_relative: LatencyShare | None = None
    per_class: dict[str, Figure] = field(default_factory=dict)
    samples: int | None = None
    latency_threads: int | None = None
    latency_rounds: int | None = None


@dataclass(frozen=True)
class LayerKept:
    """How many outputs (channels, neurons) of one layer stay.

    Raises:
        RequestError: unless 0 <= kept <= total.
    """

    __pydantic_config__ = _STRICT

    name: str
    kept: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.kept <= self.total:
            raise RequestError(f"layer '{self.name}' keeps {self.kept} of {self.total} units; give 0 <= kept <= total")


@dataclass(frozen=True)
class Heatmap:
    """One image and its relevance before and after pruning, each a base64 PNG without prefix.

    ``after_png`` is empty where one network is looked at alone, ``image_png`` where the image is not at hand.
    `secateur.reports.image_png` and `secateur.reports.heatmap_png` make such strings.
    """

    __pydantic_config__ = _STRICT

    title: str
    image_png: str
    before_png: str
    after_png: str = ""
    caption: str = ""


@dataclass(frozen=True)
class ClassUnit:
    """How much one unit speaks for a class.

    Attributes:
        class_name: the class.
        layer: the layer that makes the unit.
        unit: its index in the layer.
        relevance: mean over images of the class.
        rank: 1 for the strongest unit of the layer.
    """

    __pydantic_config__ = _STRICT

    class_name: str
    layer: str
    unit: int
    relevance: Figure
    rank: int


@dataclass(frozen=True)
class AgreementGroup:
    """How alike two networks' heatmaps are, for a group of images.

    Attributes:
        kind: ``all``; ``chance``, pairs of different images; ``outcome``, by who is right; ``class``.
        name: of the group.
        images: how many (for ``chance``: pairs); figures of an empty group are ``None``.
        same_answer: share of images for which both networks predict the same class, 0..1.
        cosine_mean: of the two heatmaps, -1..1; ``q1`` and ``q3`` are the first and third quartile.
        rank_mean: of Spearman's rank correlation, -1..1.
    """

    __pydantic_config__ = _STRICT

    kind: Literal["all", "chance", "outcome", "class"]
    name: str
    images: int
    same_answer: float | None = None
    cosine_mean: float | None = None
    cosine_q1: float | None = None
    cosine_median: float | None = None
    cosine_q3: float | None = None
    rank_mean: float | None = None
    rank_q1: float | None = None
    rank_median: float | None = None
    rank_q3: float | None = None


@dataclass(frozen=True)
class Agreement:
    """Whether a pruned network still looks at the same thing.

    Attributes:
        groups: means and quartiles, in reading order.
        counts: images by agreement, in equal bins from -1 to 1, for ``cosine``, ``rank``, and the chance level of
            both, ``chance_cosine`` and ``chance_rank``.
    """

    __pydantic_config__ = _STRICT

    groups: list[AgreementGroup] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class FilmTrack:
    """One criterion's decision regions while ever more is removed.

    Attributes:
        name: as a rule the criterion.
        frames: one base64 PNG without prefix per position, all of one size; `secateur.reports.film_png` makes them.
        accuracy: in percent, one per position.

    Raises:
        RequestError: for another number of accuracies than frames, accuracy outside 0..100, or a frame that is not
            base64.
    """

    __pydantic_config__ = _STRICT

    name: str
    frames: list[str]
    accuracy: list[float]

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.accuracy):
            raise RequestError(
                f"track '{self.name}' has {len(self.frames)} frames and {len(self.accuracy)} accuracies; "
                "give one of each per position"
            )
        if not all(0.0 <= value <= 100.0 for value in self.accuracy):
            raise RequestError(f"track '{self.name}' has an accuracy outside 0..100; give percent")
        _check_base64(f"a frame of track '{self.name}'", *self.frames)


@dataclass(frozen=True)
class Film:
    """Tracks side by side, moved by one slider.

    Attributes:
        title: as a rule the data set.
        positions: what the slider shows, rising: the number of removed units.
        tracks: one or more, each with one frame per position.
        points_png: transparent base64 PNG laid over each frame; may be empty. `secateur.reports.overlay_png` draws one.
        unit: of the positions, in words.
        start: the frame nearest to this position is shown first; by default the one where the tracks' accuracies
            differ most (of one track, the middle).

    Raises:
        RequestError: for positions that do not rise, no tracks, or a track of another length.
    """

    __pydantic_config__ = _STRICT

    title: str
    positions: list[int]
    tracks: list[FilmTrack]
    points_png: str = ""
    unit: str = "neurons removed"
    start: int | None = None

    def __post_init__(self) -> None:
        if not self.positions or self.positions != sorted(set(self.positions)):
            raise RequestError(f"the positions of film '{self.title}' do not rise; give at least one, in rising order")
        if not self.tracks:
            raise RequestError(f"film '{self.title}' has no tracks; give at least one")
        for track in self.tracks:
            if len(track.frames) != len(self.positions):
                raise RequestError(
                    f"film '{self.title}' has {len(self.positions)} positions, its track '{track.name}' "
                    f"{len(track.frames)} frames; give one per position"
                )
        _check_base64(f"the points of film '{self.title}'", self.points_png)


@dataclass(frozen=True)
class Report:
    """Everything on the page. All parts but the title may be missing; the page leaves out what is not there.

    Attributes:
        title: headline, as plain text (as is every other string here).
        subtitle: one sentence below it.
        created: ISO date or date and time.
        command: what to type to get this result again.
        before: the network as it came.
        after: the network as it goes.
        rows: tidy rows of ``compare``, one per measurement.
        layers: kept units by layer, in the order of the forward pass.
        heatmaps: relevance before and after for the same images.
        agreement: how alike the heatmaps are over many images.
        units: the strongest units of each class, in the order of the forward pass.
        films: decision regions while ever more is removed.
        sample_accuracy: rows of accuracy against reference samples, as `secateur.reports.save_samples` takes them.
        rank_matrices: rows of how alike pruning orders are, as `secateur.reports.save_ranks` takes them.
        gains: rows of class-aware minus class-blind accuracy, as `secateur.reports.save_gains` takes them.
        class_rows: rows of accuracy by subset, criterion, budget and class (subset, criterion, scored_on, strategy,
            budget, finetuned, class, accuracy; means over seeds).
        layer_rows: rows of kept units by criterion, subset, budget and layer (criterion, scored_on, subset, budget,
            layer, kept, total).
        timings: one row per criterion: scoring_s, surgery_s, retraining_s (seconds), accuracy (0..1).
        settings: the recipe, nested as it likes.
        versions: package name to version.
        notes: remarks, one paragraph each.
        conditions: what holds for the figures: data, number of test samples, seeds, how times were taken.
        schema_version: of this record's JSON form.

    Example:
        >>> report = Report(title="ResNet-20, half the work")
        >>> Report.from_json(report.to_json()) == report
        True
    """

    __pydantic_config__ = _STRICT

    title: str
    subtitle: str = ""
    created: str = ""
    command: str = ""
    before: Measurement | None = None
    after: Measurement | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    layers: list[LayerKept] = field(default_factory=list)
    heatmaps: list[Heatmap] = field(default_factory=list)
    agreement: Agreement | None = None
    units: list[ClassUnit] = field(default_factory=list)
    films: list[Film] = field(default_factory=list)
    sample_accuracy: list[dict[str, Any]] = field(default_factory=list)
    rank_matrices: list[dict[str, Any]] = field(default_factory=list)
    gains: list[dict[str, Any]] = field(default_factory=list)
    class_rows: list[dict[str, Any]] = field(default_factory=list)
    layer_rows: list[dict[str, Any]] = field(default_factory=list)
    timings: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    conditions: Conditions = field(default_factory=Conditions)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready dictionaries and lists; numbers that are not finite become ``None``."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    @classmethod
    def from_json(cls, value: Any, source: str = "report") -> Report:
        """Build a report from what `to_json` returned.

        Args:
            value: parsed JSON.
            source: where it came from, for messages.

        Raises:
            RequestError: for another schema version, or anything that is not a report.
        """
        if not isinstance(value, Mapping):
            raise RequestError(f"'{source}' is not a report (a JSON object is expected)")
        version = value.get("schema_version")
        if version != SCHEMA_VERSION:
            raise RequestError(
                f"'{source}' has schema_version {version!r}, this secateur reads {SCHEMA_VERSION}; "
                "write the report again, or read it with the secateur that wrote it"
            )
        try:
            return _adapter().validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise RequestError(
                f"'{source}' is not a report: {place}: {first['msg']}; write the report again"
            ) from error


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays, without loading it
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
