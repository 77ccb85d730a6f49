"""Describes the results of an inspection of data in sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secateur.data.findings import Inspection, Reason

_IMBALANCE = 10  # of the largest class to the smallest, from which on it is said
_NAMED = 5


def sentences(found: Inspection) -> list[str]:
    """Sentences about data, the answer first: leakage, broken files, duplicates, then counts and sizes.

    Args:
        found: results of `secateur.data.inspection.inspect`.
    """
    return [*_leakage(found), *_files(found), *_near(found), *_counts(found), *_pictures(found)]


def verdict(found: Inspection) -> str:
    """The answer in one line."""
    near = sum(each.kind == "near" and each.across_splits and each.across_groups for each in found.duplicates)
    broken, left_out = (sum(reason.count for reason in reasons) for reasons in (found.broken, found.left_out))
    parts = ["leakage" if found.leakage else "no leakage" if len(found.splits) > 1 else "not split"]
    parts += [_number(broken, "broken file")] * bool(broken)
    parts += [_number(left_out, "row") + " that cannot be used"] * bool(left_out)
    parts += [_number(near, "pair") + " of near-duplicates across splits"] * bool(near)
    return "; ".join([*parts, f"{found.usable:,} images of {len(found.classes)} classes"])


def _leakage(found: Inspection) -> list[str]:
    if len(found.splits) == 1 and not found.leakage:
        return ["The images are in one split only: nothing can leak, and nothing is kept for testing."]
    lines = []
    if found.leaking:
        images = sum(sum(group.images.values()) for group in found.leaking)
        lines.append(
            f"{len(found.leaking):,} of {found.groups:,} groups are in several splits ({images:,} images, first: "
            f"{_listed(group.name for group in found.leaking)}): test figures are too high."
        )
    exact = [each for each in found.duplicates if each.kind == "exact" and each.across_splits]
    if exact:
        lines.append(
            f"{_number(len(exact), 'image')} {'is' if len(exact) == 1 else 'are'} the same, byte by byte, as one in "
            f"another split, first: {exact[0].second} ({exact[0].second_split}) and {exact[0].first} "
            f"({exact[0].first_split}): test figures are too high."
        )
    if not lines and found.groups is not None:
        lines.append("No group and no file is in two splits.")
    elif not lines:
        lines.append("No file is in two splits; which images are of the same patient or object is not known.")
    return lines


def _files(found: Inspection) -> list[str]:
    lines = []
    if found.broken:
        count = sum(reason.count for reason in found.broken)
        lines.append(f"{count:,} of {found.files:,} files cannot be read: {_why(found.broken)}.")
    else:
        lines.append(f"All {found.files:,} images can be read.")
    if found.left_out:
        count = sum(reason.count for reason in found.left_out)
        lines.append(f"{_number(count, 'row')} of the table cannot be used: {_why(found.left_out)}.")
    return lines


def _near(found: Inspection) -> list[str]:
    lines = []
    near = [each for each in found.duplicates if each.kind == "near" and each.across_groups]
    apart = sum(each.across_splits for each in near)
    more = "" if found.complete else "at least "
    known = " of different groups" if found.groups is not None else ""
    if apart:
        lines.append(f"{more}{_number(apart, 'pair')} of near-duplicates{known} in different splits: look at them.")
    if len(near) > apart and found.groups is not None:
        lines.append(
            f"{more}{_number(len(near) - apart, 'pair')} of near-duplicates of different groups in the same split: "
            "perhaps one lesion or patient under two names."
        )
    elif len(near) > apart:
        lines.append(f"{more}{_number(len(near) - apart, 'pair')} of near-duplicates in the same split.")
    same = sum(each.kind == "exact" and not each.across_splits for each in found.duplicates)
    if same:
        lines.append(f"{_number(same, 'image')} {'is' if same == 1 else 'are'} the same as another of the same split.")
    differing = [each for each in found.duplicates if each.across_classes]
    if differing:
        first = differing[0]
        lines.append(
            f"{_number(len(differing), 'pair')} of duplicates with different classes, first: {first.first} "
            f"({first.first_class}) and {first.second} ({first.second_class})."
        )
    return [line[:1].upper() + line[1:] for line in lines]


def _counts(found: Inspection) -> list[str]:
    lines = []
    if found.absent:
        what = _listed(f"{name} in {split}" for name, split in found.absent)
        lines.append(f"Classes without images: {what}.")
    totals = {each.name: sum(each.images.values()) for each in found.classes}
    filled = {name: total for name, total in totals.items() if total}
    if len(filled) > 1:
        most, least = max(filled, key=filled.__getitem__), min(filled, key=filled.__getitem__)
        ratio = filled[most] / filled[least]
        if ratio >= _IMBALANCE:
            lines.append(
                f"The largest class has {ratio:.0f} times the images of the smallest ({most} {filled[most]:,}, "
                f"{least} {filled[least]:,}): look at balanced accuracy."
            )
    return lines


def _pictures(found: Inspection) -> list[str]:
    lines = []
    if found.sizes is not None:
        small, middle, large = (
            "{} x {}".format(*size) for size in (found.sizes.smallest, found.sizes.median, found.sizes.largest)
        )
        if small == large:
            lines.append(f"All images have {small} pixels.")
        else:
            lines.append(f"Images have {small} to {large} pixels, {middle} in the middle.")
    if 0 < found.grey < found.usable:
        lines.append(f"{found.grey:,} of {found.usable:,} images are grey, the others have colours.")
    if found.flat:
        lines.append(f"{_number(found.flat, 'image')} of one even colour; they were not compared with others.")
    return lines


def _why(reasons: Iterable[Reason]) -> str:
    every = list(reasons)
    lines = []
    for each in every[:_NAMED]:
        count = "" if len(every) == each.count == 1 else f"{each.count:,} x "
        of = "" if each.examples[0] == each.text else f" ({'first: ' * (each.count > 1)}{each.examples[0]})"
        lines.append(f"{count}{each.text}{of}")
    return "; ".join(lines) + (f"; and {len(every) - _NAMED} more reasons" if len(every) > _NAMED else "")


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:_NAMED]) + (f" and {len(every) - _NAMED:,} more" if len(every) > _NAMED else "")


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
