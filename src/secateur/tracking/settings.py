"""Which trackers are told. Light: settings are checked before PyTorch is loaded."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TrackingSettings(BaseModel):
    """Where curves, tables and files are logged, beside the results themselves; no result depends on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trackers: tuple[str, ...] = Field(default=(), description="any of: wandb, mlflow, tensorboard, trackio")
    project: str = Field(default="secateur", min_length=1, description="that runs are filed under")
    run: str | None = Field(default=None, min_length=1, description="name of the run; null: network and data")
    files: bool = Field(default=True, description="log the report and the tables' files, too")
