"""What a criterion does to a decision boundary: the 2-D toy study.

Networks 2-1000-1000-1000-K learn points in the plane; a criterion looks at a few reference samples; the 1000 lowest of
3000 hidden neurons go at once; accuracy before and after says what the criterion is worth, the boundary shows why.

Source: Yeom et al., "Pruning by explaining: a novel criterion for deep neural network pruning" (2021), toy experiment.
"""

from secateur.studies.toy.accuracy import COLUMNS, Finding, against, findings, read_published, read_rows, summarise
from secateur.studies.toy.data import Points, classes_of, draw, draw_noisy
from secateur.studies.toy.grid import Written, prepare, run_grid, untrained
from secateur.studies.toy.network import build, place, trained
from secateur.studies.toy.pictures import film, panels
from secateur.studies.toy.pruning import Cutter, remaining
from secateur.studies.toy.ranks import CASES, MEASURES, Run, rank_rows
from secateur.studies.toy.runs import Bench, Outcome
from secateur.studies.toy.settings import NetworkSettings, ToySettings
from secateur.studies.toy.tables import add_rows, read_ranks, write_frame, write_ranks

__all__ = [
    "CASES",
    "COLUMNS",
    "MEASURES",
    "Bench",
    "Cutter",
    "Finding",
    "NetworkSettings",
    "Outcome",
    "Points",
    "Run",
    "ToySettings",
    "Written",
    "add_rows",
    "against",
    "build",
    "classes_of",
    "draw",
    "draw_noisy",
    "film",
    "findings",
    "panels",
    "place",
    "prepare",
    "rank_rows",
    "read_published",
    "read_ranks",
    "read_rows",
    "remaining",
    "run_grid",
    "summarise",
    "trained",
    "untrained",
    "write_frame",
    "write_ranks",
]
