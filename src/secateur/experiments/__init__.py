"""Studies: cells of work with an identity, a store for what they give, executors that work on them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
