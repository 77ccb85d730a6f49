"""Which way of attributing relevance prunes a network best: a search over rules, and how far its winner carries.

Source: Hatefi et al., "Pruning by explaining revisited: optimizing attribution methods to prune CNNs and transformers"
(2024), for the objective and the rules by depth.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
