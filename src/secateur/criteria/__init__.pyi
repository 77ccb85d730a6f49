from .activation import Activation
from .base import Criterion, SampleCriterion, View, get, known, parse, register, register_criterion
from .filters import FPGM, LAMP
from .gradient import Gradient, Sensitivity, Taylor
from .lrp import LRP
from .maps import CAP, OCAP, APoZ, kept_at
from .mixture import Mixture
from .norm import BNScale
from .parameters import Hessian, TaylorGroup
from .random import Random
from .scores import Scores, score, score_each
from .shapley import Shapley
from .weight import Weight

__all__ = [
    "CAP",
    "FPGM",
    "LAMP",
    "LRP",
    "OCAP",
    "APoZ",
    "Activation",
    "BNScale",
    "Criterion",
    "Gradient",
    "Hessian",
    "Mixture",
    "Random",
    "SampleCriterion",
    "Scores",
    "Sensitivity",
    "Shapley",
    "Taylor",
    "TaylorGroup",
    "View",
    "Weight",
    "get",
    "kept_at",
    "known",
    "parse",
    "register",
    "register_criterion",
    "score",
    "score_each",
]
