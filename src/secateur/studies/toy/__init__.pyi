from .accuracy import COLUMNS, Finding, against, findings, read_published, read_rows, summarise
from .data import Points, classes_of, draw, draw_noisy
from .grid import Written, prepare, run_grid, untrained
from .network import build, place, trained
from .pictures import film, panels
from .pruning import Cutter, remaining
from .ranks import CASES, MEASURES, Run, rank_rows
from .runs import Bench, Outcome
from .settings import NetworkSettings, ToySettings
from .tables import add_rows, read_ranks, write_frame, write_ranks

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
