"""Exports networks to the formats of other runtimes, checks them against PyTorch, and times both."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
