from .cells import ToyCell, toy_cells
from .data import Points, classes_of, draw, draw_noisy
from .findings import COLUMNS, against, check_claims, read_published, read_rows, summarise
from .given_points import training_points
from .network import build, place, trained
from .page import analysis_page, pictured, toy_page
from .pictures import film, panels
from .pruning import Cutter, remaining
from .ranks import CASES, MEASURES, Run, rank_rows
from .settings import GridSettings, NetworkSettings, OutputSettings, PruningSettings, ToySettings, TrainingSettings
from .study import ORDERS, RESULTS, ToyStudy
from .tables import add_rows, orders_of, read_ranks, write_frame, write_ranks, write_tables
from .work import Bench, BenchOf, order_of, prune_once, untrained

__all__ = [
    "CASES",
    "COLUMNS",
    "MEASURES",
    "ORDERS",
    "RESULTS",
    "Bench",
    "BenchOf",
    "Cutter",
    "GridSettings",
    "NetworkSettings",
    "OutputSettings",
    "Points",
    "PruningSettings",
    "Run",
    "ToyCell",
    "ToySettings",
    "ToyStudy",
    "TrainingSettings",
    "add_rows",
    "against",
    "analysis_page",
    "build",
    "check_claims",
    "classes_of",
    "draw",
    "draw_noisy",
    "film",
    "order_of",
    "orders_of",
    "panels",
    "pictured",
    "place",
    "prune_once",
    "rank_rows",
    "read_published",
    "read_ranks",
    "read_rows",
    "remaining",
    "summarise",
    "toy_cells",
    "toy_page",
    "trained",
    "training_points",
    "untrained",
    "write_frame",
    "write_ranks",
    "write_tables",
]
