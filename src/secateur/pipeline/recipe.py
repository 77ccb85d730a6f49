"""Recipes: what to do, as validated data."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from secateur.core.errors import RequestError
from secateur.data import DataSettings
from secateur.models import ModelSettings
from secateur.pipeline.compare_settings import CompareSettings
from secateur.pipeline.settings import PruneSettings
from secateur.training import TrainSettings

SCHEMA_VERSION = 1

S = TypeVar("S", bound=BaseModel)


class ReferenceSettings(BaseModel):
    """Which labelled samples a criterion looks at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_class: int = Field(default=10, ge=1)
    seed: int = 0
    classes: tuple[int | str, ...] | None = None
    split: Literal["train", "val"] = "train"


class CriterionSettings(BaseModel):
    """A criterion's name and parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "lrp"
    parameters: dict[str, Any] = Field(default_factory=dict)


class BudgetSettings(BaseModel):
    """What may stay."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["macs", "params", "units", "latency"] = "macs"
    share: float = Field(default=0.5, gt=0, le=1)


class Recipe(BaseModel):
    """Everything a command needs; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    data: DataSettings = Field(default_factory=DataSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    reference: ReferenceSettings = Field(default_factory=ReferenceSettings)
    criterion: CriterionSettings = Field(default_factory=CriterionSettings)
    budget: BudgetSettings = Field(default_factory=BudgetSettings)
    prune: PruneSettings = Field(default_factory=PruneSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    finetune: TrainSettings = Field(default_factory=lambda: TrainSettings(epochs=0, learning_rate=0.01))
    compare: CompareSettings = Field(default_factory=CompareSettings)
    device: str = "auto"


def known_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("secateur") / "recipes"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_recipe(source: str | Path | None = None, overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe from a shipped name, a YAML file, or the defaults, with some values replaced.

    Args:
        source: name (see `known_recipes`) or path; None: the defaults.
        overrides: dotted keys to values, ``{"train.epochs": 3}``.

    Raises:
        RequestError: for an unknown name, broken YAML, unknown keys or values out of range, naming each.

    Example:
        >>> load_recipe(None, {"budget.share": 0.3}).budget.share
        0.3
    """
    return load_settings(Recipe, source, overrides)


def load_settings(kind: type[S], source: str | Path | None = None, overrides: dict[str, Any] | None = None) -> S:
    """The same for any kind of settings: a study has its own.

    Args:
        kind: pydantic model to fill.
        source: see `load_recipe`.
        overrides: likewise.
    """
    value: Any = {} if source is None else _read(str(source))
    for key, item in (overrides or {}).items():
        _put(value, key, item)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise RequestError(f"recipe: '{where}': {first['msg']}, got {first['input']!r}{more}") from error


def _read(source: str) -> Any:
    if source in known_recipes():
        text = (resources.files("secateur") / "recipes" / f"{source}.yaml").read_text(encoding="utf-8")
    else:
        path = Path(source).expanduser()
        if not path.is_file():
            raise RequestError(
                f"recipe '{source}' is neither a file nor a known name; known: {', '.join(known_recipes())}"
            )
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"recipe '{source}' cannot be read ({error})") from error
    try:
        value = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        line = str(error).replace("\n", " ")
        raise RequestError(f"recipe '{source}' is not valid YAML ({line})") from error
    if not isinstance(value, dict):
        raise RequestError(f"recipe '{source}' must be a mapping, got {type(value).__name__}")
    return value


def _put(value: dict[str, Any], key: str, item: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = value.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RequestError(f"--set {key}: '{part}' is not a section")
        value = inner
    value[last] = item
