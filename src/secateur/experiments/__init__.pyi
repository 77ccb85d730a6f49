from .cells import Cell, canonical, fingerprint, identity
from .checking import check_study
from .executors import Done, Executor, Here, Job, Processes, execution_of, executor_for
from .opening import check_store, opened_cells, opened_store, stored_study, study_of
from .planning import Estimate, StageEstimate, estimate
from .question import Condition, Question
from .ray_cluster import RayCluster
from .registry import declare_studies, forget_study, known_studies, register_study, study_class
from .resources import Resource, Resources
from .running import Outcome, identities, run
from .schema import Column, Row, Schema
from .settings import Effect, Execution, RaySettings, Section, StudySettings, sections, settings_for
from .statistics import Statistics, study_statistics
from .status import Failure, Pace, Status, Working
from .store import Store
from .study import Finding, Result, Study, Tables, TextTable
from .writing import write_table

__all__ = [
    "Cell",
    "Column",
    "Condition",
    "Done",
    "Effect",
    "Estimate",
    "Execution",
    "Executor",
    "Failure",
    "Finding",
    "Here",
    "Job",
    "Outcome",
    "Pace",
    "Processes",
    "Question",
    "RayCluster",
    "RaySettings",
    "Resource",
    "Resources",
    "Result",
    "Row",
    "Schema",
    "Section",
    "StageEstimate",
    "Statistics",
    "Status",
    "Store",
    "Study",
    "StudySettings",
    "Tables",
    "TextTable",
    "Working",
    "canonical",
    "check_store",
    "check_study",
    "declare_studies",
    "estimate",
    "execution_of",
    "executor_for",
    "fingerprint",
    "forget_study",
    "identities",
    "identity",
    "known_studies",
    "opened_cells",
    "opened_store",
    "register_study",
    "run",
    "sections",
    "settings_for",
    "stored_study",
    "study_class",
    "study_of",
    "study_statistics",
    "write_table",
]
