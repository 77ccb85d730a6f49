"""The known name that somebody meant: nearest by edit distance, by beginning, or by part."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

_SIMILAR = 0.6  # of 1, as difflib's own cut-off
_BEGINNING, _PART = 0.4, 0.2  # what sharing a beginning, or a part, counts beside similarity
_LONGEST = 100  # characters compared


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like another one; None when none is.

    Case is left out of account, and so is the difference between ``-``, ``_`` and blanks. Of names that are equally
    like it the shortest is taken, then the first.

    Args:
        name: as somebody wrote it.
        known: the right ones.

    Example:
        >>> closest("resnet", ["resnet20-cifar10", "resnet20", "resnet56"])
        'resnet20'
        >>> closest("eps", ["alpha2-beta1", "epsilon", "gamma"])
        'epsilon'
        >>> closest("Wieght", ["weight", "random"])
        'weight'
        >>> closest("zebra", ["weight", "random"]) is None
        True
    """
    wanted = _plain(name)
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(wanted)  # difflib keeps what it worked out about the second text
    best: str | None = None
    best_key = (0.0, 0)
    for other in known:
        plain = _plain(other)
        bonus = _bonus(wanted, plain)
        floor = best_key[0] if bonus else max(best_key[0], _SIMILAR)
        matcher.set_seq1(plain)
        # the quick ratios are upper bounds of the ratio
        if matcher.real_quick_ratio() + bonus < floor or matcher.quick_ratio() + bonus < floor:
            continue
        score = matcher.ratio() + bonus
        if score >= floor and (score, -len(plain)) > best_key:
            best, best_key = other, (score, -len(plain))
    return best


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` to put behind a refused name; empty when no known name is like it.

    Example:
        >>> f"unknown colour 'read'{did_you_mean('read', ['green', 'red'])}"
        "unknown colour 'read' (did you mean 'red'?)"
        >>> did_you_mean("blue", ["green", "red"])
        ''
    """
    best = closest(name, known)
    return "" if best is None else f" (did you mean '{best}'?)"


def did_you_mean_file(path: str | Path) -> str:
    """`` (did you mean 'folder/x'?)`` for a path that leads nowhere; empty when nothing near it is like it.

    Files of the same folder are looked at, or folders beside the first one that is missing. Names are compared without
    their suffixes; where none is like it, the only file with that suffix is taken.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "model.safetensors").write_bytes(b"")
        >>> did_you_mean_file(folder / "modle.safetensor").replace(str(folder), "out")
        " (did you mean 'out/model.safetensors'?)"
    """
    missing = Path(path)
    rest: list[str] = []  # parts behind the first one that is missing
    while not missing.parent.is_dir() and missing.parent != missing:
        rest.insert(0, missing.name)
        missing = missing.parent
    try:
        entries = sorted(entry for entry in missing.parent.iterdir() if entry.is_dir() or not rest)
    except OSError:  # a folder that may not be looked into
        return ""
    stems: dict[str, Path] = {}
    for entry in sorted(entries, key=lambda entry: entry.suffix != missing.suffix):
        stems.setdefault(entry.stem, entry)
    best = closest(missing.stem, stems)
    alike = [entry for entry in entries if missing.suffix and entry.suffix == missing.suffix]
    target = stems[best] if best is not None else alike[0] if len(alike) == 1 else None
    if target is None:
        return ""
    whole = target.joinpath(*rest)
    return f" (did you mean '{whole if whole.exists() else target}'?)"


def _plain(name: str) -> str:
    return name[:_LONGEST].casefold().replace("_", "-").replace(" ", "-")


def _bonus(wanted: str, known: str) -> float:
    short, long = sorted((wanted, known), key=len)
    if len(short) >= 2 and long.startswith(short):
        return _BEGINNING
    return _PART if len(short) >= 3 and short in long else 0.0
