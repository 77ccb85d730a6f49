"""What a comparison prunes for: all classes, or some of them, with a network that answers for these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from secateur.core.errors import RequestError
from secateur.criteria import Criterion, score
from secateur.data import ImageData, ReferenceSet
from secateur.pipeline.compare_settings import WHOLE, Head, SubsetSettings
from secateur.pipeline.subsets import with_head
from secateur.structure import Structure, trace


@dataclass(frozen=True, eq=False)
class Task:
    """One subset of classes.

    Attributes:
        name: of the subset.
        classes: indices among all classes; None: all of them.
        whole: the network for all classes; ``whole_data``: its data.
        model: the network for these classes; the same object where its head stays as it is.
        data: images of these classes, labelled as ``model`` numbers them.
        stream: let channels go that norms run over.
    """

    name: str
    classes: tuple[int, ...] | None
    whole: nn.Module
    whole_data: ImageData
    model: nn.Module
    data: ImageData
    stream: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of its classes."""
        names = self.whole_data.class_names
        return names if self.classes is None else tuple(names[index] for index in self.classes)

    @cached_property
    def structure(self) -> Structure:
        """Of ``model``."""
        return trace(self.model, self._example, stream=self.stream)

    @cached_property
    def whole_structure(self) -> Structure:
        """Of ``whole``: the same units.

        Raises:
            RequestError: when they are not: a head that is sliced, but has units of its own.
        """
        if self.model is self.whole:
            return self.structure
        found = trace(self.whole, self._example, stream=self.stream)
        if [(g.name, g.size) for g in found.groups] != [(g.name, g.size) for g in self.structure.groups]:
            raise RequestError(
                "class-blind scores cannot be carried over: with another head, others can go; use replace_head=keep"
            )
        return found

    @property
    def _example(self) -> torch.Tensor:
        return self.whole_data.test.batch([0])[0].to(next(self.whole.parameters()).device)

    def reference(self, per_class: int, seed: int) -> ReferenceSet:
        """Samples of these classes, for ``model``; each subset draws anew."""
        return ReferenceSet.sample(self.data.train, per_class, seed)

    def blind(self, criterion: Criterion, per_class: int, seed: int) -> ClassBlind:
        """The same criterion with about as many samples of all classes, one of each at least, for ``whole``."""
        share = len(self.class_names) / len(self.whole_data.class_names)
        reference = ReferenceSet.sample(self.whole_data.train, max(1, round(per_class * share)), seed)
        return ClassBlind(criterion, self.whole, self.whole_structure, reference)


@dataclass(frozen=True, eq=False)
class ClassBlind(Criterion):
    """Scores of the units of a network for some classes that were taken on the network for all of them.

    Nothing else is class-blind: repairs after the cut look at samples of the chosen classes, so that the scores alone
    make the difference.
    """

    criterion: Criterion
    whole: nn.Module
    structure: Structure
    reference: ReferenceSet
    name: ClassVar[str] = "class-blind"

    @property
    def standing(self) -> bool:  # type: ignore[override]
        """As the criterion's."""
        return self.criterion.standing

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`; looks at neither ``model`` nor ``reference``."""
        return score(
            self.whole, self.structure, self.reference, self.criterion, centred=centred, batch_size=batch_size
        ).values

    def __repr__(self) -> str:
        return f"{self.criterion!r} on all classes"


def make_tasks(
    model: nn.Module, data: ImageData, subsets: Sequence[SubsetSettings], head: Head, stream: bool = False
) -> list[Task]:
    """One task per subset; without subsets, one for all classes.

    Args:
        model: for all classes.
        data: likewise.
        subsets: of the classes.
        head: what the networks for some classes answer.
        stream: see `secateur.trace`.

    Raises:
        RequestError: for subsets of one name or of the same classes, unknown classes, a class that a split lacks, or a
            head that cannot be sliced.
    """
    if not subsets:
        return [Task(WHOLE, None, model, data, model, data, stream)]
    found: dict[tuple[int, ...], str] = {}
    tasks = []
    example = data.test.batch([0])[0].to(next(model.parameters()).device)
    for subset in subsets:
        classes = _checked(subset, data, found)
        chosen = data.only(classes, renumber=head == "slice")
        network = with_head(model, classes, head, example)
        tasks.append(Task(subset.name, classes, model, data, network, chosen, stream))
    return tasks


def _checked(subset: SubsetSettings, data: ImageData, found: dict[tuple[int, ...], str]) -> tuple[int, ...]:
    classes = subset.indices(data.class_names)
    if len(classes) < 2:
        raise RequestError(f"subset '{subset.name}' has one class, '{data.class_names[classes[0]]}'; give at least two")
    if subset.name == WHOLE or subset.name in found.values():
        raise RequestError(f"subset name '{subset.name}' is taken; give each subset its own name")
    if classes in found:
        raise RequestError(f"subsets '{found[classes]}' and '{subset.name}' have the same classes; leave one out")
    found[classes] = subset.name
    return classes
