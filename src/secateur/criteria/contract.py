"""The contract of criteria as one function, which our tests run on all criteria and users can run on theirs."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from secateur.criteria.base import Criterion, get
from secateur.criteria.scores import score
from secateur.data import ReferenceSet
from secateur.structure import Structure, trace


class ContractNet(nn.Module):
    """A small network with a residual sum, a batch norm, a flatten and an in-place activation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 5, 3, padding=1)
        self.outer = nn.Conv2d(5, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6 * 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, 8, 8] to [N, 4]."""
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(x + self.outer(self.relu(self.inner(x))))
        return self.head(nn.functional.max_pool2d(x, 2).flatten(1))  # type: ignore[no-any-return]


def check_criterion(criterion: str | Criterion) -> None:
    """Check a criterion against the contract.

    Scores are finite, one per unit, the same in a second call and for any batching of the samples, permuted with the
    channels, and the state of the network is restored. A criterion that draws random numbers draws others for another
    seed, see `Criterion.seeded`.

    Raises:
        AssertionError: naming what does not hold.

    Example:
        >>> check_criterion("weight")
    """
    tested = get(criterion)
    model, reference = _setting()
    model.train()
    model.inner.requires_grad_(False)
    structure = trace(model, reference.inputs[:1])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for centred in (False, True):
        values = score(model, structure, reference, tested, centred=centred).values
        assert values.shape == (structure.num_units,), f"{tested.name}: {values.shape} scores"
        assert np.isfinite(values).all(), f"{tested.name}: scores are not finite"
        again = score(model, structure, reference, tested, centred=centred).values
        np.testing.assert_array_equal(values, again, f"{tested.name}: scores differ when asked again")
        split = score(model, structure, reference, tested, centred=centred, batch_size=3).values
        np.testing.assert_allclose(values, split, rtol=1e-8, atol=1e-12, err_msg=f"{tested.name}: depends on batching")
        if tested.equivariant:
            _check_permutation(tested, model, reference, values, centred)
    _check_seeds(tested, model, structure, reference)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{tested.name}: changed '{name}'"
    assert all(m.training for m in model.modules()), f"{tested.name}: left the network in another mode"
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    assert flags == {name: not name.startswith("inner") for name in flags}, f"{tested.name}: changed requires_grad"
    assert all(p.grad is None for p in model.parameters()), f"{tested.name}: left gradients behind"


def _setting() -> tuple[ContractNet, ReferenceSet]:
    generator = torch.Generator().manual_seed(0)
    model = ContractNet().double()
    with torch.no_grad():
        for tensor in [*model.parameters(), model.norm.running_mean]:
            assert isinstance(tensor, torch.Tensor)
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.4)
    inputs = torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64)
    return model, ReferenceSet(inputs, torch.arange(8) % 4, tuple(range(8)), (-4.0, 4.0))


def _check_seeds(tested: Criterion, model: ContractNet, structure: Structure, reference: ReferenceSet) -> None:
    """Check that another seed gives other scores if the criterion draws random numbers and its seed is not fixed."""
    one, two = tested.seeded(1), tested.seeded(2)
    assert type(one) is type(tested), f"{tested.name}: seeded gives {type(one).__name__}"
    first, again, second = (
        score(model, structure, reference, criterion).values for criterion in (one, tested.seeded(1), two)
    )
    np.testing.assert_array_equal(first, again, f"{tested.name}: scores differ for one seed")
    if one != two:
        assert not np.array_equal(first, second), f"{tested.name}: scores are the same for another seed"
    elif not tested.equivariant:
        fixed = getattr(tested, "seed", None) is not None
        assert fixed, f"{tested.name}: draws by chance, but not by a seed; give it a field 'seed', or override seeded"


def _check_permutation(
    tested: Criterion, model: ContractNet, reference: ReferenceSet, values: np.ndarray, centred: bool
) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled, _ = _setting()
    shuffled.load_state_dict(model.state_dict())
    with torch.no_grad():
        shuffled.inner.weight.copy_(model.inner.weight[order])
        assert model.inner.bias is not None
        assert shuffled.inner.bias is not None
        shuffled.inner.bias.copy_(model.inner.bias[order])
        shuffled.outer.weight.copy_(model.outer.weight[:, order])
    structure = trace(shuffled, reference.inputs[:1])
    permuted = score(shuffled, structure, reference, tested, centred=centred).values
    here = structure.group("inner").units
    np.testing.assert_allclose(
        permuted[here], values[here][order.numpy()], rtol=1e-8, atol=1e-12, err_msg=f"{tested.name}: not equivariant"
    )
