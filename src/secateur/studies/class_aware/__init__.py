"""Which criterion keeps some classes best: a comparison over subsets of classes.

The recipes ``class-aware-*`` hold the protocols.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
