"""Where relevance starts, and where units are looked at."""

from __future__ import annotations

from typing import Literal

Start = Literal["one", "logit", "contrast", "loss"]
"""At the logits, see `secateur.attribution.attribute`."""

At = Literal["makers", "readers"]
"""The layers that make a unit, or those that read it."""
