"""Small synthetic lesions for tests, written once per process."""

import functools
import tempfile
from pathlib import Path

from secateur.data.synthetic import write_lesions


@functools.cache
def lesions(scale=0.02, size=(48, 36)):
    """The folder."""
    return write_lesions(Path(tempfile.mkdtemp(prefix="lesions-")) / "HAM10000", scale=scale, size=size)
