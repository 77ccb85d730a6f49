import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from checks.pages import ANCHORS, EXTENSIONS
from pydantic import BaseModel
from sphinx.application import Sphinx

project = "Secateur"
author = "The Secateur developers"
copyright = author
release = version = installed_version("secateur")

extensions = [
    "checks",
    "mathml",
    "myst_parser",
    "schemas",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "examples"]
myst_enable_extensions = list(EXTENSIONS)
myst_heading_anchors = ANCHORS

html_theme = "furo"
html_math_renderer = "mathml"
html_title = "Secateur"
html_static_path = ["static"]
html_css_files = ["wide.css"]

# docstrings put names in single backticks
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# every cross-reference must resolve, but those to other libraries, whose pages are not asked, and to internals
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|np|pandas|pd|pydantic|collections|pathlib|nn|v2)\..*|Path|Start|Augmentation"),
    (r"py:.*", r"secateur\.(attribution\.(composites|rules)|selection\.(plan|latency)|structure\.code)\.\w+"),
    (r"py:class", r".* .*|Time"),  # the first words of a property's sentence, which napoleon takes for a type
    (r"py:class", r"(secateur\.experiments\.study\.)?[CS]|Row|Charts|View|Subject|MappedImages"),  # aliases
    (r"py:class", r"Similarity|AddOn|Tables|secateur\.core\.ranks\.T|secateur\.experiments\.planning\.Duration"),
    (r"py:class", r"secateur\.core\.statistics\.MeanInterval"),
]


def escape_bars(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep ``|x|`` in docstrings as it stands: it is an absolute value, not a substitution."""
    code = r"(^[ ]*>>>.*?(?=\n[ ]*\n|\Z)|``.+?``|`[^`\n]+`)"
    parts = re.split(code, "\n".join(lines), flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def list_settings(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Give settings their keys, defaults and descriptions, which are no docstrings."""
    if isinstance(obj, type) and issubclass(obj, BaseModel):
        lines.append("")
        for key, field in obj.model_fields.items():
            default = field.get_default(call_default_factory=True)
            shown = "settings of its own" if isinstance(default, BaseModel) else f"``{default!r}``"
            lines.append(f"* ``{key}`` ({shown}){f': {field.description}' if field.description else ''}")
        lines.append("")


def skip_model_config(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave out what pydantic's models have in common."""
    return True if name == "model_config" else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-process-docstring", list_settings)
    app.connect("autodoc-skip-member", skip_model_config)
