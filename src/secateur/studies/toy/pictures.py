"""Decision boundaries: panels for a page, and films over the number of removed neurons."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from secateur.core.progress import track
from secateur.reports import Field, Film, FilmTrack, film_png, overlay_png, to_base64
from secateur.studies.toy.data import classes_of, draw
from secateur.studies.toy.pruning import remaining
from secateur.studies.toy.work import Bench

_MARGIN = 0.12  # of the data's range, on each side
_PANEL = 120  # points of the mesh, across; logits between them are interpolated
_FRAME = 80
_OVERLAY = 400  # pixels

Extent = tuple[float, float, float, float]


def panels(bench: Bench, orders: dict[str, np.ndarray], samples_per_class: int, seed: int, remove: int) -> list[Field]:
    """The trained network on its training data, then one panel for each criterion with its reference samples.

    Args:
        bench: network and data.
        orders: criterion to pruning order.
        samples_per_class: of the reference samples.
        seed: likewise.
        remove: units that go.
    """
    extent = extent_of(bench.train.x)
    chosen = draw(bench.dataset, samples_per_class, seed)
    cuts = {text: bench.cutter.cut(remaining(order, remove)) for text, order in orders.items()}
    begun = bench.cutter.begin(mesh(extent, _PANEL))
    found = []
    for text, cut in {"unpruned": bench.uncut, **cuts}.items():
        classes, certainty = _regions(cut.logits(begun), _PANEL, 2 * _PANEL)
        shown = chosen if text in cuts else None
        found.append(
            Field(
                text,
                classes,
                certainty,
                extent,
                f"{cut.accuracy(bench.begun, bench.train.labels):.2f} %",
                bench.train.x,
                bench.train.labels,
                np.empty((0, 2)) if shown is None else shown.x,
                np.empty(0, np.int64) if shown is None else shown.labels,
            )
        )
    return found


def film(
    bench: Bench,
    orders: dict[str, np.ndarray],
    samples_per_class: int,
    seed: int,
    colormap: str,
    *,
    step: int,
    start: int,
) -> Film:
    """What is left of the boundary as more and more neurons go, a track for each criterion.

    Args:
        bench: network and data.
        orders: criterion to pruning order.
        samples_per_class: of the reference samples.
        seed: likewise.
        colormap: see `secateur.reports.COLORMAPS`.
        step: neurons between two frames.
        start: neurons removed in the frame that is shown first; it has a frame of its own.
    """
    extent, classes = extent_of(bench.train.x), classes_of(bench.dataset)
    chosen = draw(bench.dataset, samples_per_class, seed)
    begun = bench.cutter.begin(mesh(extent, _FRAME))
    positions = sorted({*range(0, bench.structure.num_units, step), start})
    tracks = []
    for text, order in orders.items():
        frames, accuracy = [], []
        for position in track(positions, f"{bench.dataset}: {text}"):
            cut = bench.cutter.cut(remaining(order, position))
            frames.append(film_png(*_regions(cut.logits(begun), _FRAME, _FRAME), colormap, classes))
            accuracy.append(cut.accuracy(bench.begun, bench.train.labels))
        tracks.append(FilmTrack(text, frames, accuracy))
    overlay = overlay_png(
        extent, _OVERLAY, bench.train.x, bench.train.labels, chosen.x, chosen.labels, colormap, classes
    )
    return Film(bench.dataset, positions, tracks, to_base64(overlay), start=start)


def extent_of(x: np.ndarray) -> Extent:
    """A square around points [N, 2], with a margin: x_low, x_high, y_low, y_high."""
    low, high = x.min(0), x.max(0)
    centre, half = (low + high) / 2, (0.5 + _MARGIN) * float((high - low).max())
    return tuple(float(v) for v in (centre[0] - half, centre[0] + half, centre[1] - half, centre[1] + half))  # type: ignore[return-value]


def mesh(extent: Extent, size: int) -> np.ndarray:
    """Centres of size × size cells, [size², 2] float32; rows from the top (largest y) down.

    Example:
        >>> mesh((0.0, 2.0, 0.0, 2.0), 2).tolist()
        [[0.5, 1.5], [1.5, 1.5], [0.5, 0.5], [1.5, 0.5]]
    """
    steps = (np.arange(size) + 0.5) / size
    x = extent[0] + (extent[1] - extent[0]) * steps
    y = extent[3] - (extent[3] - extent[2]) * steps
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float32)


def _regions(logits: torch.Tensor, size: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Winning class and how far it is ahead in probability (0..1), [wanted, wanted] each."""
    grid = logits.T.reshape(1, -1, size, size)
    fine = F.interpolate(grid, size=(wanted, wanted), mode="bilinear", align_corners=False)[0]
    best = fine.softmax(0).topk(2, 0).values
    return fine.argmax(0).numpy(), (best[0] - best[1]).clamp(0, 1).numpy()
