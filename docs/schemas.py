"""A Sphinx directive that shows the columns of a table from its schema: ``{columns} package.module:SCHEMA``."""

from __future__ import annotations

import importlib
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from secateur.experiments import Schema


class Columns(SphinxDirective):
    """The columns of a `Schema`, with what a row is above them."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Read the schema, and the table that it writes as part of the page."""
        name = self.arguments[0]
        module, _, attribute = name.partition(":")
        try:
            schema = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise self.error(f"no schema '{name}': {error}") from error
        if not isinstance(schema, Schema):
            raise self.error(f"'{name}' is no schema")
        first = f"A row is {schema.meaning}.\n\n" if schema.meaning else ""
        holder = nodes.Element()
        self.state.nested_parse(StringList((first + schema.markdown()).splitlines(), name), 0, holder)
        return holder.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("columns", Columns)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
