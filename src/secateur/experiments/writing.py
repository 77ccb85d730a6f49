"""Tables as files: CSV, Parquet, LaTeX (booktabs), HTML."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.core.errors import RequestError
from secateur.core.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {"csv": "csv", "parquet": "parquet", "latex": "tex", "html": "html"}
"""Endings of files by format."""


def formats_of(texts: Iterable[str]) -> list[str]:
    """Formats that were named one by one, or several in a text with commas; each once.

    Raises:
        RequestError: for unknown ones, or none.

    Example:
        >>> formats_of(["csv,latex", "csv"])
        ['csv', 'latex']
    """
    found = list(dict.fromkeys(part.strip() for text in texts for part in text.split(",")))
    check_formats(found)
    return found


def check_formats(formats: Iterable[str]) -> None:
    """Refuse unknown formats.

    Raises:
        RequestError: naming those that are known.
    """
    for name in formats:
        if name not in FORMATS:
            raise RequestError(f"unknown format '{name}'; known: {', '.join(FORMATS)}")


def write_table(frame: pd.DataFrame, path: Path, formats: Iterable[str] = ("csv", "parquet")) -> Path:
    """Write a frame in each format, each file atomically.

    Args:
        frame: the table.
        path: of the first format; the others have their own endings.
        formats: ``csv``, ``parquet``, ``latex``, ``html``. The last two leave out columns of bytes.

    Raises:
        RequestError: for an unknown format.
    """
    names = list(formats)
    check_formats(names)
    for name in names:
        with atomic_path(path.with_suffix(f".{FORMATS[name]}")) as temporary:
            if name == "csv":
                frame.to_csv(temporary, index=False)
            elif name == "parquet":
                frame.to_parquet(temporary, index=False)
            else:
                text = latex(frame) if name == "latex" else html(frame)
                temporary.write_text(text, encoding="utf-8")
    return path


def latex(frame: pd.DataFrame) -> str:
    r"""A ``tabular`` with the rules of booktabs; all text is escaped, numbers have four significant figures.

    Example:
        >>> import pandas as pd
        >>> print(latex(pd.DataFrame({"kept_share": [0.5], "by": ["100 %"]})))
        \begin{tabular}{rl}
        \toprule
        kept\_share & by \\
        \midrule
        0.5 & 100 \% \\
        \bottomrule
        \end{tabular}
        <BLANKLINE>
    """
    style = _legible(frame).style.format(_text, escape="latex", na_rep="").format_index(escape="latex", axis=1)
    return str(style.hide(axis="index").to_latex(hrules=True, column_format=_alignment(frame)))


def html(frame: pd.DataFrame) -> str:
    """A page that holds the table alone; all text is escaped."""
    body = _legible(frame).to_html(index=False, na_rep="", border=0, float_format=_text)
    return f'<!doctype html>\n<meta charset="utf-8">\n{body}\n'


def _legible(frame: pd.DataFrame) -> pd.DataFrame:
    """Without columns of bytes."""
    held = [name for name in frame.columns if not frame[name].map(lambda value: isinstance(value, bytes)).any()]
    return frame[held].reset_index(drop=True)


def _alignment(frame: pd.DataFrame) -> str:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    kinds = _legible(frame).dtypes
    return "".join("r" if is_numeric_dtype(kind) and not is_bool_dtype(kind) else "l" for kind in kinds)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
