"""What holds for the figures of a report: the data they were measured on, seeds, and how times were taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from secateur.core.errors import RequestError


@dataclass(frozen=True)
class Conditions:
    """Under which conditions a report's figures were measured; what is not known is left out.

    Each figure and table of the page names those that concern it. Where rows have columns of their own (``dataset``,
    ``seed``, ``samples``, ``latency_rounds``), these count, and not what is said here.

    Attributes:
        data: the data set.
        split: of it that accuracy was measured on, as ``test``.
        samples: that accuracy was measured on.
        class_samples: how many of them belong to each class.
        subset_samples: how many of them belong to each subset of classes.
        labels: what was left out or changed of the labels, in words, as "3 of 10 classes".
        seeds: of the reference samples.
        reference_per_class: reference samples of each class that units were scored on.
        composite: rules by which relevance was propagated.
        device: that networks ran and were timed on.
        threads: of the timed networks.
        latency_batch: samples in a batch that was timed.
        latency_rounds: how often each network was timed, in turn with the others.

    Raises:
        RequestError: for a count below 1.

    Example:
        >>> Conditions(data="cifar10", split="test", samples=10_000, seeds=[0, 1]).measured()
        'accuracy on 10,000 test samples of cifar10'
    """

    __pydantic_config__ = {"extra": "forbid"}

    data: str = ""
    split: str = ""
    samples: int | None = None
    class_samples: dict[str, int] = field(default_factory=dict)
    subset_samples: dict[str, int] = field(default_factory=dict)
    labels: str = ""
    seeds: list[int] = field(default_factory=list)
    reference_per_class: int | None = None
    composite: str = ""
    device: str = ""
    threads: int | None = None
    latency_batch: int | None = None
    latency_rounds: int | None = None

    def __post_init__(self) -> None:
        counts = {
            name: getattr(self, name)
            for name in ("samples", "reference_per_class", "threads", "latency_batch", "latency_rounds")
        }
        counts |= {f"samples of '{name}'": count for name, count in self.class_samples.items()}
        counts |= {f"samples of '{name}'": count for name, count in self.subset_samples.items()}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise RequestError(f"{name} is {count}; give a positive number, or leave it out where it is not known")

    def measured(self, samples: Sequence[int] = (), data: Sequence[str] = ()) -> str:
        """What accuracy was measured on, in words, or "".

        Args:
            samples: how many, where the figure itself knows; several are given as a range.
            data: data sets, where the figure itself knows.
        """
        counts = sorted(set(samples)) or ([] if self.samples is None else [self.samples])
        names = ", ".join(data) or self.data
        what = [span(counts), self.split, "sample" if counts == [1] else "samples"] if counts else []
        what = what or ([f"the {self.split} split"] if self.split else [])
        words = " ".join(part for part in what if part)
        words += (f" of {names}" if words else names) if names else ""
        return f"accuracy on {words}" + (f" ({self.labels})" if self.labels else "") if words else ""

    def references(self) -> str:
        """How many reference samples units were scored on, in words, or ""."""
        count = self.reference_per_class
        return "" if count is None else f"{count} reference sample{'s' * (count > 1)} per class"

    def timed(self, rounds: Sequence[int] = (), batch: int | None = None) -> str:
        """How times were taken, in words, or "".

        Args:
            rounds: how many, where the figure itself knows; several are given as a range.
            batch: samples per batch, likewise.
        """
        counts = sorted(set(rounds)) or ([] if self.latency_rounds is None else [self.latency_rounds])
        size = self.latency_batch if batch is None else batch
        parts = [] if size is None else [f"batch of {size}"]
        parts += [] if self.threads is None else [f"{self.threads} thread{'s' * (self.threads > 1)}"]
        parts += [self.device] if self.device else []
        parts += [f"{span(counts)} round{'s' * (counts != [1])}"] if counts else []
        return f"latency: {', '.join(parts)}" if parts else ""


def span(counts: Sequence[int]) -> str:
    """Numbers as one, or as their range.

    Example:
        >>> span([3]), span([300, 1000])
        ('3', '300 to 1,000')
    """
    return " to ".join(f"{count:,}" for count in dict.fromkeys((min(counts), max(counts))))
