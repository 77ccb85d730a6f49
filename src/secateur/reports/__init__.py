"""Records in, one self-contained HTML file out; no model and no torch is needed to draw it again."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
