from .cells import CompareCell, TimeCell, compare_cells
from .comparing import check_compare, compare
from .job import CompareJob
from .settings import CompareStudySettings
from .study import CompareStudy
from .tables import COLUMNS, COMPARE, Row, class_rows, layer_rows, rows_of, write_rows
from .tasks import Task, make_tasks
from .timing import busy_networks
from .work import Bench, measured_images

__all__ = [
    "COLUMNS",
    "COMPARE",
    "Bench",
    "CompareCell",
    "CompareJob",
    "CompareStudy",
    "CompareStudySettings",
    "Row",
    "Task",
    "TimeCell",
    "busy_networks",
    "check_compare",
    "class_rows",
    "compare",
    "compare_cells",
    "layer_rows",
    "make_tasks",
    "measured_images",
    "rows_of",
    "write_rows",
]
