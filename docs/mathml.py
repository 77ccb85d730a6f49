"""Formulas as MathML, which browsers show by themselves: no script, and nothing fetched from another site."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_logger = logging.getLogger(__name__)


def _render(translator: Any, node: nodes.Element, *, as_block: bool) -> None:
    try:
        translator.body.append(tex2mathml(node.astext(), as_block=as_block))
    except MathError as error:
        _logger.warning("a formula cannot be shown: %s", error, location=node, type="mathml")
    raise nodes.SkipNode


def _inline(translator: Any, node: nodes.Element) -> None:
    _render(translator, node, as_block=False)


def _block(translator: Any, node: nodes.Element) -> None:
    _render(translator, node, as_block=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
