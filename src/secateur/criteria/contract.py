"""What every criterion must keep, as one function: our tests run it on all registered criteria, users on theirs."""

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

    Scores are finite, one per unit, the same when asked again and however the samples are batched, move along when
    channels are permuted, and the network comes back as it was. A criterion that draws by chance draws anew for another
    seed, see `Criterion.seeded`.

    Raises:
        AssertionError: naming what does not hold.

    Example:
        >>> check_criterion("weight")
    """
    chosen = get(criterion)
    model, reference = _setting()
    model.train()
    model.inner.requires_grad_(False)
    structure = trace(model, reference.inputs[:1])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for centred in (False, True):
        values = score(model, structure, reference, chosen, centred=centred).values
        assert values.shape == (structure.num_units,), f"{chosen.name}: {values.shape} scores"
        assert np.isfinite(values).all(), f"{chosen.name}: scores are not finite"
        again = score(model, structure, reference, chosen, centred=centred).values
        np.testing.assert_array_equal(values, again, f"{chosen.name}: scores differ when asked again")
        split = score(model, structure, reference, chosen, centred=centred, batch_size=3).values
        np.testing.assert_allclose(values, split, rtol=1e-8, atol=1e-12, err_msg=f"{chosen.name}: depends on batching")
        if chosen.equivariant:
            _check_permutation(chosen, model, reference, values, centred)
    _check_seeds(chosen, model, structure, reference)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{chosen.name}: changed '{name}'"
    assert all(m.training for m in model.modules()), f"{chosen.name}: left the network in another mode"
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    assert flags == {name: not name.startswith("inner") for name in flags}, f"{chosen.name}: changed requires_grad"
    assert all(p.grad is None for p in model.parameters()), f"{chosen.name}: left gradients behind"


def _setting() -> tuple[ContractNet, ReferenceSet]:
    generator = torch.Generator().manual_seed(0)
    model = ContractNet().double()
    with torch.no_grad():
        for tensor in [*model.parameters(), model.norm.running_mean]:
            assert isinstance(tensor, torch.Tensor)
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.4)
    inputs = torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64)
    return model, ReferenceSet(inputs, torch.arange(8) % 4, tuple(range(8)), (-4.0, 4.0))


def _check_seeds(chosen: Criterion, model: ContractNet, structure: Structure, reference: ReferenceSet) -> None:
    """Another seed gives other scores where the criterion draws by chance, and its seed is not fixed."""
    one, two = chosen.seeded(1), chosen.seeded(2)
    assert type(one) is type(chosen), f"{chosen.name}: seeded gives {type(one).__name__}"
    first, again, second = (
        score(model, structure, reference, criterion).values for criterion in (one, chosen.seeded(1), two)
    )
    np.testing.assert_array_equal(first, again, f"{chosen.name}: scores differ for one seed")
    if one != two:
        assert not np.array_equal(first, second), f"{chosen.name}: scores are the same for another seed"
    elif not chosen.equivariant:
        fixed = getattr(chosen, "seed", None) is not None
        assert fixed, f"{chosen.name}: draws by chance, but not by a seed; give it a field 'seed', or override seeded"


def _check_permutation(
    chosen: Criterion, model: ContractNet, reference: ReferenceSet, values: np.ndarray, centred: bool
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
    found = score(shuffled, structure, reference, chosen, centred=centred).values
    here = structure.group("inner").units
    np.testing.assert_allclose(
        found[here], values[here][order.numpy()], rtol=1e-8, atol=1e-12, err_msg=f"{chosen.name}: not equivariant"
    )
