"""Files of a bundle for model hubs: ``config.json`` and a model card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import yaml
from torch import nn

from secateur.core.figures import size
from secateur.core.memory import Memory
from secateur.core.timing import Latency
from secateur.models.libraries import base_model
from secateur.surgery.pruning import edits_of

_CARD = """---
{front}---

# {title}

{what}

```python
import secateur as sc

model = sc.from_pretrained("PATH_OR_REPOSITORY"{argument})
```

`pip install secateur`. Loading runs no code of this repository and reads no pickle; every file is checked against
`manifest.json`.
{metrics}"""


def config(model: nn.Module, architecture: Mapping[str, Any], achieved: Mapping[str, float] | None) -> dict[str, Any]:
    """Content of ``config.json``: what the network is, for hubs and people; loading does not read it.

    Args:
        model: the network.
        architecture: the values of ``architecture.json``.
        achieved: shares that stayed in the last plan.
    """
    return {
        "library_name": "secateur",
        "secateur_version": architecture["versions"]["secateur"],
        "bundle_version": architecture["version"],
        "architecture": architecture["class"],
        "origin": architecture["origin"],
        "kept": {"params": kept_parameters(model), "last_plan": dict(achieved or {})},
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def kept_parameters(model: nn.Module) -> float:
    """Share of the original network's parameters that is left after all rounds."""
    cuts: dict[str, list[Any]] = {}
    for cut in edits_of(model).cuts:
        cuts.setdefault(cut.tensor, []).append(cut)
    counted: set[int] = set()
    left = before = 0
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in counted:
            continue
        counted.add(id(parameter))
        left += parameter.numel()
        shape = list(parameter.shape)
        for cut in cuts.get(name, ()):
            shape[cut.dim] = cut.size
        before += math.prod(shape)
    return left / before if before else 1.0


def model_card(model: nn.Module, about: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Content of ``README.md``: the hub's front matter, the network, how to load it, and measured figures."""
    front: dict[str, Any] = {"library_name": "secateur", "tags": ["secateur", "pruning", "pytorch"]}
    base = base_model(model)
    if base is not None:
        front["base_model"] = base
    origin = about["origin"]
    name = origin["name"] if origin else about["architecture"].rpartition(".")[2]
    share, last = about["kept"]["params"], about["kept"]["last_plan"]
    what = f"`{_text(name)}`, pruned to {share:.1%} of its parameters ({about['parameters']:,} are left)."
    if share == 1.0:
        what = f"`{_text(name)}` with all its {about['parameters']:,} parameters."
    if last:
        what += " Last plan: " + ", ".join(f"{_text(key)} {value:.1%}" for key, value in last.items()) + " stay."
    return _CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        title=_text(name),
        what=what,
        argument="" if origin else f", model={_text(name)}()",
        metrics=_table(metrics),
    )


def _table(metrics: Mapping[str, Any]) -> str:
    """Table of measured figures: one column per stage (group of figures), one row per measure."""
    columns: dict[str, dict[str, Any]] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            figures = {str(k): v for k, v in value.items() if _is_figure(v)}
            figures |= _times(value.get("latency")) | _memory(value.get("memory"))
            if figures:
                columns[str(key)] = figures
        elif _is_figure(value):
            columns.setdefault("value", {})[str(key)] = value
    if not columns:
        return ""
    rows = list(dict.fromkeys(row for figures in columns.values() for row in figures))
    lines = [f"| measure | {' | '.join(map(_text, columns))} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = [_figure(figures[row], row) if row in figures else "" for figures in columns.values()]
        lines.append(f"| {_text(row)} | {' | '.join(cells)} |")
    return "\n## Measured\n\n" + "\n".join(lines) + "\n"


def _is_figure(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))


def _figure(value: Any, name: str) -> str:
    if name == "size_bytes" and isinstance(value, int):
        return size(value)
    return f"{value:.4g}" if isinstance(value, float) else _text(value)


def _times(value: Any) -> dict[str, str]:
    """Latencies of evaluations in words; figures of any other form are left out."""
    if not isinstance(value, Mapping):
        return {}
    try:
        latency = Latency.from_json(value)
    except (TypeError, KeyError, ValueError, IndexError):
        return {}  # a user's own figures, of another form
    rows = {"latency": str(latency)}
    if latency.relative is not None:
        rows["latency, against the network before"] = str(latency.relative)
    return rows | ({"latency, note": latency.warning} if latency.warning else {})


def _memory(value: Any) -> dict[str, str]:
    """Peak memory of evaluations in words; figures of any other form are left out."""
    if not isinstance(value, Mapping):
        return {}
    try:
        return {"peak memory": str(Memory(**value))}
    except (TypeError, ValueError):
        return {}  # a user's own figures, of another form


def _text(value: Any) -> str:
    """Text on one line, without characters that start a Markdown table, code or HTML."""
    plain = "".join(c if c.isprintable() else " " for c in str(value))[:120]
    return plain.replace("|", "/").replace("`", "'").replace("<", "(").replace(">", ")")
