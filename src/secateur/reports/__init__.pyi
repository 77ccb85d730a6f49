from .agreement import Agreement, AgreementGroup
from .before_after import BeforeAfter, Measurement
from .class_accuracy import ClassAccuracy, ClassAccuracyRow
from .class_units import ClassUnit, ClassUnits
from .comparison import Comparison
from .conditions import Conditions
from .curve_charts import save_curves, save_subset_curves
from .data_check import AlikeImages, ClassImages, DataCheck, image_jpeg
from .drawing import save_figure
from .fields import Field, field_png, overlay_png, save_fields
from .films import Film, Films, FilmTrack
from .gains import GainRow, Gains, save_gains
from .heatmaps import Heatmap, Heatmaps
from .images import heatmap_png, image_png
from .joint_pruning import JointPruning, JointPruningLine, joint_cells
from .layer_refits import LayerRefit, LayerRefits
from .layer_shares import LayerShareRow, LayerShares
from .layers import LayerKept, Layers
from .look import COLORMAPS, colormap, save_chart
from .page import load_report, render, write_report
from .prototype_explanations import ExplainedImage, PrototypeExplanations, PrototypeMatch
from .prototype_figure import save_prototype_figure
from .prototype_pictures import BoxedImage
from .prototype_pruning import PrototypeDecisionRow, PrototypePruning, PrunedStage
from .prototypes import NearPatch, PrototypeCard, PrototypeGallery
from .rank_diagram import save_rank_diagram
from .ranks import RankingRow, Rankings, save_ranks
from .records import SCHEMA_VERSION, Report
from .regions import film_png, to_base64
from .registry import register_section
from .rows import read_rows
from .samples import SampleAccuracy, SampleAccuracyRow, save_samples
from .search import Search, SearchCandidate, SearchedParameter, SearchPicture, TriedSetting, save_pareto
from .steps import RecallRow, StepRow, Steps, StepSummary, save_steps
from .summary import ComparisonRow
from .table import Cell, Table, csv_link
from .timings import TimingRow, Timings

__all__ = [
    "COLORMAPS",
    "SCHEMA_VERSION",
    "Agreement",
    "AgreementGroup",
    "AlikeImages",
    "BeforeAfter",
    "BoxedImage",
    "Cell",
    "ClassAccuracy",
    "ClassAccuracyRow",
    "ClassImages",
    "ClassUnit",
    "ClassUnits",
    "Comparison",
    "ComparisonRow",
    "Conditions",
    "DataCheck",
    "ExplainedImage",
    "Field",
    "Film",
    "FilmTrack",
    "Films",
    "GainRow",
    "Gains",
    "Heatmap",
    "Heatmaps",
    "JointPruning",
    "JointPruningLine",
    "LayerKept",
    "LayerRefit",
    "LayerRefits",
    "LayerShareRow",
    "LayerShares",
    "Layers",
    "Measurement",
    "NearPatch",
    "PrototypeCard",
    "PrototypeDecisionRow",
    "PrototypeExplanations",
    "PrototypeGallery",
    "PrototypeMatch",
    "PrototypePruning",
    "PrunedStage",
    "RankingRow",
    "Rankings",
    "RecallRow",
    "Report",
    "SampleAccuracy",
    "SampleAccuracyRow",
    "Search",
    "SearchCandidate",
    "SearchPicture",
    "SearchedParameter",
    "StepRow",
    "StepSummary",
    "Steps",
    "Table",
    "TimingRow",
    "Timings",
    "TriedSetting",
    "colormap",
    "csv_link",
    "field_png",
    "film_png",
    "heatmap_png",
    "image_jpeg",
    "image_png",
    "joint_cells",
    "load_report",
    "overlay_png",
    "read_rows",
    "register_section",
    "render",
    "save_chart",
    "save_curves",
    "save_fields",
    "save_figure",
    "save_gains",
    "save_pareto",
    "save_prototype_figure",
    "save_rank_diagram",
    "save_ranks",
    "save_samples",
    "save_steps",
    "save_subset_curves",
    "to_base64",
    "write_report",
]
