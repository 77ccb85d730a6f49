"""Names of where relevance starts, and of where units are observed."""

from __future__ import annotations

from typing import Literal

Start = Literal["one", "logit", "contrast", "loss"]
"""How relevance starts at the logits, see `secateur.attribution.attribute`."""

At = Literal["makers", "readers"]
"""Whether units are observed at the layers that produce them (``makers``) or at those that read them."""
