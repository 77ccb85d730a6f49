"""Networks in the formats of other runtimes, checked against PyTorch and timed beside it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
