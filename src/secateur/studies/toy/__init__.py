"""What a criterion does to a decision boundary: the 2-D toy study.

Networks 2-1000-1000-1000-K learn points in the plane; a criterion looks at a few reference samples; the 1000 lowest of
3000 hidden neurons go at once; accuracy before and after says what the criterion is worth, the boundary shows why.

Source: Yeom et al., "Pruning by explaining: a novel criterion for deep neural network pruning" (2021), toy experiment.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
