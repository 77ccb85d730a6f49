"""Prune neural networks by what they find relevant.

Example:
    >>> import torch
    >>> import secateur as sc
    >>> from torch.utils.data import TensorDataset
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> data = TensorDataset(torch.randn(30, 4), torch.arange(30) % 3)
    >>> structure = sc.trace(net, data[:1][0])
    >>> reference = sc.ReferenceSet.sample(data, per_class=5)
    >>> scores = sc.score(net, structure, reference, "lrp")
    >>> plan = sc.select(scores, sc.Budget(units=0.5))
    >>> sc.prune(net, plan)[0].out_features
    8
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
