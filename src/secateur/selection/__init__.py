"""Budgets, strategies and plans: pure functions on scores, and on measured times where latency is asked for."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
