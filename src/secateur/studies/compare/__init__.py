"""Criteria side by side: pruned under the same strategy to the same budgets, measured, timed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
