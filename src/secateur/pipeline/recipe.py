"""Recipes: requests as validated data, which are checked before PyTorch is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean
from secateur.data import DataSettings
from secateur.models import ModelSettings
from secateur.pipeline.compare_settings import CompareSettings
from secateur.pipeline.settings import PruneSettings
from secateur.tracking import TrackingSettings
from secateur.training import TrainSettings

SCHEMA_VERSION = 1

S = TypeVar("S", bound=BaseModel)


class ReferenceSettings(BaseModel):
    """The labelled samples that a criterion uses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_class: int = Field(default=10, ge=1)
    seed: int = 0
    classes: tuple[int | str, ...] | None = None
    split: Literal["train", "val"] = "train"
    samples: str | None = Field(
        default=None, description="file that lists them, as prune writes it (reference.json); null: they are drawn"
    )


class CriterionSettings(BaseModel):
    """A criterion's name and parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "lrp"
    parameters: dict[str, Any] = Field(default_factory=dict)


class BudgetSettings(BaseModel):
    """The share that stays."""

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
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)
    device: str = "auto"


def known_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("secateur") / "recipes"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_recipe(source: str | Path | None = None, overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe by the name of a shipped one, from a YAML file, or the defaults, with some values replaced.

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
    """Load settings of any kind like a recipe; studies have their own.

    Args:
        kind: pydantic model to fill.
        source: see `load_recipe`.
        overrides: see `load_recipe`.
    """
    value: Any = {} if source is None else _unshared(_read(str(source)))
    return _validated(kind, value, overrides or {})


def changed_settings(settings: S, overrides: dict[str, Any]) -> S:
    """Settings with other values.

    Args:
        settings: which stay as they are.
        overrides: see `load_recipe`.
    """
    return _validated(type(settings), settings.model_dump(mode="json"), overrides)


def _validated(kind: type[S], value: Any, overrides: dict[str, Any]) -> S:
    for key, item in overrides.items():
        _put(value, key, item)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            known = _fields(kind, path[:-1])
            hint = did_you_mean(path[-1], known)
            where = f"section '{'.'.join(path[:-1])}'" if path[1:] else "a recipe"
            raise RequestError(
                f"recipe: {where} has no key '{path[-1]}'{hint}; known: {', '.join(known)}{more}"
            ) from error
        hint = did_you_mean(str(first["input"]), _choices(first))
        raise RequestError(f"recipe: '{'.'.join(path)}': {first['msg']}, got {first['input']!r}{hint}{more}") from error


def _fields(kind: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Keys of the section at a path."""
    for part in path:
        field = kind.model_fields.get(part)
        inner = [t for t in (field.annotation, *get_args(field.annotation)) if isinstance(t, type)] if field else []
        kind = next((t for t in inner if issubclass(t, BaseModel)), kind)
    return list(kind.model_fields)


def _choices(error: ErrorDetails) -> list[str]:
    """Texts that are valid instead of a refused value."""
    expected = error.get("ctx", {}).get("expected", "") if error["type"] == "literal_error" else ""
    return re.findall(r"'([^']*)'", expected)


def _read(source: str) -> Any:
    if source in known_recipes():
        text = (resources.files("secateur") / "recipes" / f"{source}.yaml").read_text(encoding="utf-8")
    else:
        path = Path(source).expanduser()
        if not path.is_file():
            nearby = [entry.name for suffix in ("*.yaml", "*.yml") for entry in path.parent.glob(suffix)]
            hint = did_you_mean(path.name, [*known_recipes(), *nearby])
            raise RequestError(
                f"recipe '{source}' is neither a file nor a known name{hint}; known: {', '.join(known_recipes())}"
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


def _unshared(value: Any) -> Any:
    """A copy in which YAML aliases are separate values, so that replacing one does not change others."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _put(value: dict[str, Any], key: str, item: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = value.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RequestError(f"--set {key}: '{part}' is not a section")
        value = inner
    value[last] = item
