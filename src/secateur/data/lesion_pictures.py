"""Draws synthetic pictures that look like dermatoscopy of skin lesions.

A `Lesion` is what it is; a `View` is one picture taken of it. Lengths are in half the shorter side of the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_HARMONICS = 10  # of the radius of a lesion as a function of the angle


@dataclass(frozen=True)
class Traits:
    """What is usual of a class. Numbers without a unit are between 0, absent, and 1, strong.

    Attributes:
        colour: RGB of most of it, 0..255.
        second: RGB of patches in it.
        patches: how much of it has the second colour.
        radius: mean, 1 being half the shorter side of the picture.
        border: irregularity of the outline.
        asymmetry: of shape and shade.
        softness: how slowly it goes over into skin.
        network: of dark lines.
        globules: number of round spots.
        globule_colour: their RGB.
        globule_size: their radius, against that of the lesion.
        centre: paler centre, as a scar; below 0 a darker one.
        scale: whitish scale and roughness.
        vessels: number of fine red lines.
    """

    colour: tuple[float, float, float]
    second: tuple[float, float, float]
    patches: float
    radius: float
    border: float
    asymmetry: float
    softness: float
    network: float = 0.0
    globules: float = 0.0
    globule_colour: tuple[float, float, float] = (70.0, 45.0, 40.0)
    globule_size: float = 0.06
    centre: float = 0.0
    scale: float = 0.0
    vessels: float = 0.0

    def mixed(self, other: Traits, share: float) -> Traits:
        """These traits with a share of another's."""
        values = {name: _mix(value, getattr(other, name), share) for name, value in vars(self).items()}
        return replace(self, **values)


def _mix(one: Any, two: Any, share: float) -> Any:
    if isinstance(one, tuple):
        return tuple((1 - share) * a + share * b for a, b in zip(one, two, strict=True))
    return (1 - share) * one + share * two


TRAITS = {
    "akiec": Traits(
        (188, 112, 98), (214, 170, 150), 0.45, 0.50, 0.35, 0.40, 0.30, scale=0.9, vessels=5, globule_size=0.03
    ),
    "bcc": Traits(
        (200, 132, 120), (150, 120, 135), 0.35, 0.46, 0.30, 0.45, 0.22,
        globules=9, globule_colour=(88, 90, 120), globule_size=0.12, vessels=14,
    ),
    "bkl": Traits(
        (158, 118, 88), (120, 98, 84), 0.45, 0.52, 0.30, 0.30, 0.07,
        network=0.10, globules=16, globule_colour=(222, 205, 180), globule_size=0.06, scale=0.25,
    ),
    "df": Traits((172, 116, 92), (186, 138, 116), 0.25, 0.40, 0.12, 0.15, 0.34, network=0.35, centre=0.85),
    "mel": Traits(
        (88, 58, 50), (86, 88, 112), 0.50, 0.62, 0.60, 0.80, 0.12,
        network=0.45, globules=10, globule_colour=(38, 28, 30), globule_size=0.06, vessels=1,
    ),
    "nv": Traits(
        (134, 86, 62), (112, 70, 52), 0.30, 0.44, 0.14, 0.15, 0.16,
        network=0.55, globules=6, globule_colour=(84, 52, 38), globule_size=0.05, centre=-0.25,
    ),
    "vasc": Traits(
        (158, 46, 58), (112, 34, 66), 0.40, 0.40, 0.18, 0.20, 0.10,
        globules=14, globule_colour=(104, 16, 40), globule_size=0.15,
    ),
}  # fmt: skip
"""Of the seven classes of HAM10000, by code."""


@dataclass(frozen=True)
class Lesion:
    """One lesion: all that is the same in every picture of it; see `lesion`."""

    traits: Traits
    radius: float
    skin: np.ndarray
    harmonics: np.ndarray
    shade: np.ndarray
    waves: np.ndarray
    spots: np.ndarray
    vessels: np.ndarray
    mesh: float


@dataclass(frozen=True)
class View:
    """How a picture is taken: rotation in radians, shift of the centre, zoom, gain of the light per channel, hairs."""

    rotation: float
    shift: tuple[float, float]
    zoom: float
    light: np.ndarray
    vignette: float
    hairs: int


def lesion(dx: str, generator: np.random.Generator) -> Lesion:
    """A lesion of a class, with a share of another class's looks: classes overlap, as they do in life.

    Args:
        dx: code of the class, one of `TRAITS`.
        generator: what is random of it.
    """
    other = list(TRAITS)[int(generator.integers(len(TRAITS)))]
    traits = TRAITS[dx].mixed(TRAITS[other], 0.75 * float(generator.beta(1.2, 2.2)))
    decay = 1.0 / np.arange(1, _HARMONICS + 1) ** np.where(np.arange(1, _HARMONICS + 1) > 3, 0.8, 0.6)
    strength = traits.border * generator.uniform(0.6, 1.4, _HARMONICS) * decay * 0.22
    strength[:2] += traits.asymmetry * generator.uniform(0.0, 0.22, 2)
    tone = generator.uniform(0.0, 1.0)
    skin = (1 - tone) * np.array([236.0, 196, 178]) + tone * np.array([196.0, 150, 126]) + generator.normal(0, 7, 3)
    count = int(generator.poisson(traits.globules))
    where = generator.uniform(0.0, 2 * math.pi, count)
    far = np.sqrt(generator.uniform(0.0, 0.8, count))
    sizes = traits.globule_size * generator.uniform(0.6, 1.5, count)
    lines = int(generator.poisson(traits.vessels))
    return Lesion(
        traits=traits,
        radius=traits.radius * float(np.exp(generator.normal(0, 0.16))),
        skin=skin,
        harmonics=np.stack([strength, generator.uniform(0, 2 * math.pi, _HARMONICS)]),
        shade=np.array([*(generator.normal(0, 13) + generator.normal(0, 7, 3)), generator.uniform(0, 2 * math.pi)]),
        waves=np.concatenate(
            [generator.normal(0, 2.6, (2, 5)), generator.uniform(0, 2 * math.pi, (1, 5))]
        ),
        spots=np.stack([far * np.cos(where), far * np.sin(where), sizes]),
        vessels=np.concatenate(
            [generator.uniform(-0.8, 0.8, (2, lines)), generator.uniform(0, 2 * math.pi, (1, lines))]
        ),
        mesh=float(generator.uniform(13, 19)),
    )  # fmt: skip


def view(generator: np.random.Generator) -> View:
    """How one picture of a lesion is taken."""
    light = generator.normal(1.0, 0.06) * generator.normal(1.0, 0.02, 3)
    return View(
        rotation=float(generator.uniform(0, 2 * math.pi)),
        shift=(float(generator.normal(0, 0.09)), float(generator.normal(0, 0.09))),
        zoom=float(generator.uniform(0.8, 1.25)),
        light=light,
        vignette=float(generator.uniform(0.0, 0.5)) * float(generator.random() < 0.5),
        hairs=int(generator.poisson(6)) if generator.random() < 0.4 else 0,
    )


def draw(
    subject: Lesion, taken: View, size: tuple[int, int], generator: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """A picture of a lesion, and its mask.

    Args:
        subject: what is drawn.
        taken: how.
        size: width and height in pixels.
        generator: of hairs and the grain of the skin.

    Returns:
        RGB picture, and the lesion's area as 255 on 0.
    """
    width, height = size
    half = min(size) / 2
    x = ((np.arange(width, dtype=np.float32) - (width - 1) / 2) / half)[None, :]
    y = ((np.arange(height, dtype=np.float32) - (height - 1) / 2) / half)[:, None]
    grain = _grain(size, generator)
    pixels = subject.skin.astype(np.float32) + (5 * grain)[..., None]
    mask = np.zeros((height, width), np.uint8)

    box = _box(subject, taken, size)
    cos, sin = math.cos(taken.rotation) / taken.zoom, math.sin(taken.rotation) / taken.zoom
    across, down = x[:, box[1]] - taken.shift[0], y[box[0]] - taken.shift[1]
    u, v = cos * across + sin * down, cos * down - sin * across  # the lesion's own axes
    depth = _depth(subject, u, v)
    mask[box] = np.where(depth < 1, 255, 0)
    amount = np.zeros((height, width), np.float32)
    amount[box] = 0.93 * _step((1 - depth) / (2 * subject.traits.softness) + 0.5)
    within = pixels[box]
    within += amount[box][..., None] * (_colour(subject, u, v, depth, grain[box]) - within)
    overlay = _Overlay(subject, taken, size)
    overlay.spots(pixels, amount)
    overlay.vessels(pixels, amount)
    overlay.hairs(pixels, generator)
    if taken.vignette:
        pixels *= (1 - taken.vignette * _step((x * x + y * y - 0.9) / 1.6))[..., None]
    pixels *= taken.light.astype(np.float32)
    pixels += 1.5 * generator.standard_normal((height, width, 1), np.float32)
    np.rint(np.clip(pixels, 0, 255, out=pixels), out=pixels)
    return Image.fromarray(pixels.astype(np.uint8)), Image.fromarray(mask)


def _box(subject: Lesion, taken: View, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns that the lesion is in."""
    furthest = subject.radius * (1 + np.abs(subject.harmonics[0]).sum()) * (1 + subject.traits.softness)
    slices = []
    for side, shift in zip(size[::-1], taken.shift[::-1], strict=True):
        middle, reach = (side - 1) / 2 + shift * min(size) / 2, taken.zoom * furthest * min(size) / 2
        slices.append(slice(max(0, int(middle - reach)), max(0, int(middle + reach) + 2)))
    return slices[0], slices[1]


def _depth(subject: Lesion, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Distance from the centre, 1 on the outline."""
    angle = np.arctan2(v, u)
    table = np.linspace(-math.pi, math.pi, 1025)
    order = np.arange(1, _HARMONICS + 1)[:, None]
    strength, phase = subject.harmonics[0][:, None], subject.harmonics[1][:, None]
    outline = subject.radius * (1 + (strength * np.cos(order * table + phase)).sum(0))
    place = np.rint((angle + np.float32(math.pi)) * np.float32(1024 / (2 * math.pi))).astype(np.int32)
    return np.asarray(np.hypot(u, v) / outline.astype(np.float32)[place])


def _colour(subject: Lesion, u: np.ndarray, v: np.ndarray, depth: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """Colours of the lesion at each pixel, before spots and vessels."""
    traits = subject.traits
    first = np.array(traits.colour) + subject.shade[:3]
    second = np.array(traits.second) + subject.shade[:3]
    field = np.zeros_like(depth)
    for across, down, phase in subject.waves.T:
        field += np.sin(np.float32(across) * 1.6 * u + np.float32(down) * 1.6 * v + np.float32(phase))
    patches = _step((field / 2.6 + 2.2 * (traits.patches - 0.5)) * 1.4 + 0.5)
    colour = first.astype(np.float32) + patches[..., None] * (second - first).astype(np.float32)
    direction = subject.shade[3]
    slope = math.cos(direction) * u + math.sin(direction) * v
    gain = 1 - 0.30 * traits.asymmetry * np.clip(slope / subject.radius, -1, 1)
    if traits.network > 0.02:
        mesh = 0.6 * subject.mesh / max(subject.radius, 0.3)
        bend = 0.35 * np.sin(5 * v + np.float32(subject.waves[2, 0]))
        lines = np.maximum(np.cos(mesh * 2 * u + bend), np.cos(mesh * (u + 1.73 * v) - bend))
        gain -= 0.28 * traits.network * np.maximum(lines, 0) ** 3
    if traits.scale > 0.02:
        gain += 0.10 * traits.scale * np.maximum(grain, 0)
    colour *= gain[..., None]
    if abs(traits.centre) > 0.02:
        pale = np.array([236, 214, 204], np.float32) if traits.centre > 0 else first.astype(np.float32) * 0.55
        weight = abs(traits.centre) * 0.8 * np.exp(-((depth / 0.42) ** 2))
        colour += weight[..., None].astype(np.float32) * (pale - colour)
    return np.asarray(colour, np.float32)


class _Overlay:
    """What is drawn on top, into the picture's own pixels."""

    def __init__(self, subject: Lesion, taken: View, size: tuple[int, int]) -> None:
        self.subject, self.taken, self.size, self.half = subject, taken, size, min(size) / 2

    def spots(self, pixels: np.ndarray, amount: np.ndarray) -> None:
        """Globules, cysts, nests or lacunae, whichever the class has."""
        colour = np.array(self.subject.traits.globule_colour, np.float32)
        for across, down, size in self.subject.spots.T:
            x, y = self._pixel(across, down)
            reach = max(0.8, size * self.subject.radius * self.taken.zoom * self.half)
            left, top = max(0, int(x - 2 * reach)), max(0, int(y - 2 * reach))
            right, bottom = max(0, int(x + 2 * reach) + 2), max(0, int(y + 2 * reach) + 2)
            part, inside = pixels[top:bottom, left:right], amount[top:bottom, left:right]
            rows = np.arange(top, top + part.shape[0], dtype=np.float32)[:, None] - y
            columns = np.arange(left, left + part.shape[1], dtype=np.float32)[None, :] - x
            weight = 0.7 * inside * np.exp(-(((rows**2 + columns**2) / reach**2) ** 2))
            part += weight[..., None].astype(np.float32) * (colour - part)

    def vessels(self, pixels: np.ndarray, amount: np.ndarray) -> None:
        """Fine red lines within the lesion."""
        curves = []
        for across, down, heading in self.subject.vessels.T:
            points = []
            for step in range(15):
                points.append(self._pixel(across, down))
                bent = heading + 0.9 * math.sin(0.6 * step + heading)
                across, down = across + 0.045 * math.cos(bent), down + 0.045 * math.sin(bent)
            curves.append(points)
        if curves:
            self._paint(pixels, (150, 30, 40), 0.55 * amount * self._stroke(curves, 0.008))

    def hairs(self, pixels: np.ndarray, generator: np.random.Generator) -> None:
        """Dark lines over everything."""
        curves = []
        for _ in range(self.taken.hairs):
            x, y = generator.uniform(0, 1, 2) * self.size
            heading, bend = generator.uniform(0, 2 * math.pi), generator.normal(0, 0.06)
            points = []
            for _ in range(14):
                points.append((float(x), float(y)))
                x, y = x + 0.12 * self.half * math.cos(heading), y + 0.12 * self.half * math.sin(heading)
                heading += bend
            curves.append(points)
        if curves:
            self._paint(pixels, (52, 38, 32), 0.75 * self._stroke(curves, 0.010))

    def _pixel(self, across: float, down: float) -> tuple[float, float]:
        """A place of the lesion, its radius being 1, in pixels of the picture."""
        cos, sin = math.cos(self.taken.rotation), math.sin(self.taken.rotation)
        grown = self.taken.zoom * self.subject.radius
        x = grown * (cos * across - sin * down) + self.taken.shift[0]
        y = grown * (sin * across + cos * down) + self.taken.shift[1]
        return float(x) * self.half + (self.size[0] - 1) / 2, float(y) * self.half + (self.size[1] - 1) / 2

    def _stroke(self, curves: list[list[tuple[float, float]]], width: float) -> np.ndarray:
        """Curves as an area between 0 and 1; paler where they are thinner than a pixel."""
        thick = width * self.half * 2
        sheet = Image.new("L", self.size, 0)
        pen = ImageDraw.Draw(sheet)
        for curve in curves:
            pen.line(curve, fill=min(255, round(255 * thick)), width=max(1, round(thick)), joint="curve")
        return np.asarray(sheet.filter(ImageFilter.BoxBlur(0.5)), np.float32) / 255

    @staticmethod
    def _paint(pixels: np.ndarray, colour: tuple[int, int, int], weight: np.ndarray) -> None:
        rows, columns = np.nonzero(weight)
        pixels[rows, columns] += weight[rows, columns, None] * (np.array(colour, np.float32) - pixels[rows, columns])


def _grain(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Smooth noise of two scales, about standard normal."""
    grain = np.zeros((size[1], size[0]), np.float32)
    for cells, strength in ((7, 0.8), (38, 0.7)):
        coarse = Image.fromarray(generator.normal(0, strength, (cells, cells * 4 // 3)).astype(np.float32))
        grain += np.asarray(coarse.resize(size, Image.Resampling.BILINEAR))
    return grain


def _step(value: np.ndarray) -> np.ndarray:
    """From 0 at 0 to 1 at 1, smoothly."""
    held = np.clip(value, 0, 1)
    return np.asarray(held * held * (3 - 2 * held), np.float32)
