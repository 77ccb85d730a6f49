"""Networks of the user's own code: ``package.module:factory`` or ``path/to/file.py:factory``.

The code is on the import path or in the current folder. It runs only with the user's permission; before that, files are
only searched and their text is read.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from secateur.core.errors import RequestError
from secateur.core.names import closest, did_you_mean, did_you_mean_file

if TYPE_CHECKING:
    from torch import nn

_SHAPE = re.compile(r"(?P<module>.+):(?P<factory>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)")
_HOW = "write package.module:factory or path/to/file.py:factory"


def check_trust(name: str, trust: bool) -> None:
    """Refuse to run the user's own code without permission.

    Raises:
        RequestError: without ``trust``.
    """
    if not trust:
        raise RequestError(
            f"model '{name}' runs code of that module on this machine; if you trust it, add --trust-code "
            "(in Python trust_code=True, in a recipe model.trust_code: true)"
        )


def check_reference(name: str) -> None:
    """Refuse a ``module:factory`` that is certainly wrong, without running any of its code.

    Raises:
        RequestError: for another form, a missing module or file, one with a syntax error, or a name that it does not
            define.

    Example:
        >>> check_reference("json.decoder:JSONDecoder")
        >>> check_reference("json.decodr:JSONDecoder")
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: model 'json.decodr:JSONDecoder': there is no module 'json.decodr' (did you...
    """
    module, factory = _parts(name)
    if module.endswith(".py"):
        file = Path(module)
        if not file.is_file():
            raise RequestError(f"model '{name}': there is no file '{module}'{did_you_mean_file(file)}")
    else:
        spec = _find(name, module)
        if spec.origin is None or not spec.origin.endswith(".py"):
            return  # compiled, or a folder without __init__.py: its names are known only when it runs
        file = Path(spec.origin)
    names = _defined(name, file)
    first = factory.partition(".")[0]
    if names is not None and first not in names:
        raise RequestError(f"model '{name}': '{module}' defines no '{first}'{did_you_mean(first, names)}")


def make_own(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Call a factory of the user's own code; the caller has checked that the user trusts it.

    Args:
        name: ``module:factory``, the name of a class, a function, or a network that the module created.
        arguments: keyword arguments of the factory.

    Raises:
        RequestError: see `check_reference`; when the code fails, in one line; when it returns no network.
    """
    from torch import nn

    check_reference(name)
    module, factory = _parts(name)
    with _importable(module):
        target = _run(name, f"importing '{module}'", lambda: _load(module))
        for part in factory.split("."):
            if not hasattr(target, part):
                public = [key for key in vars(target) if not key.startswith("_")]
                raise RequestError(f"model '{name}': '{module}' defines no '{part}'{did_you_mean(part, public)}")
            target = getattr(target, part)
        if isinstance(target, nn.Module):
            if arguments:
                raise RequestError(f"model '{name}' is a network already, and takes no arguments ({arguments})")
            return target
        if not callable(target):
            raise RequestError(f"model '{name}' is a {type(target).__name__}; name a class or function that makes one")
        network = _run(name, f"{factory}({_call(arguments)})", lambda: target(**arguments))
    if not isinstance(network, nn.Module):
        raise RequestError(f"model '{name}' returned a {type(network).__name__}, not a network (torch.nn.Module)")
    return network


def _parts(name: str) -> tuple[str, str]:
    match = _SHAPE.fullmatch(name)
    if match is None:
        raise RequestError(f"model '{name}' is not a valid reference to your own code; {_HOW}")
    module = match["module"]
    if not module.endswith(".py") and not all(part.isidentifier() for part in module.split(".")):
        raise RequestError(f"model '{name}': '{module}' is neither a module nor a .py file; {_HOW}")
    return module, match["factory"]


def _find(name: str, module: str) -> ModuleSpec:
    """The spec of a module, going down its packages without running their ``__init__.py``."""
    folders: list[str] | None = None  # of the package that was reached; None: the import path
    path, spec = "", None
    with _importable(module):
        for part in module.split("."):
            whole = f"{path}.{part}".lstrip(".")
            spec = _spec(whole, folders) if folders is not None or not path else None
            if spec is None:
                near = closest(part, _modules_in(Path.cwd() if folders is None else Path((folders or ["."])[0])))
                close = "" if near is None else f" (did you mean '{f'{path}.{near}'.lstrip('.')}'?)"
                raise RequestError(
                    f"model '{name}': there is no module '{whole}'{close} in the current folder or on the import path"
                )
            path = whole
            folders = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    if spec is None:
        raise RequestError(f"model '{name}' names no module; {_HOW}")
    return spec


def _spec(module: str, folders: list[str] | None) -> ModuleSpec | None:
    loaded = sys.modules.get(module)
    if loaded is not None and loaded.__spec__ is not None:
        return loaded.__spec__
    specs = (finder.find_spec(module, folders) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((spec for spec in specs if spec is not None), None)


def _modules_in(folder: Path) -> list[str]:
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        entry.stem
        for entry in entries
        if entry.stem.isidentifier() and (entry.suffix == ".py" or (entry.is_dir() and any(entry.glob("*.py"))))
    ]


def _defined(name: str, file: Path) -> list[str] | None:
    """Names that a file defines at its top level, by its text; None where the text does not show them."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        raise RequestError(f"model '{name}': '{file.name}' is not valid Python{where} ({_line(error)})") from error
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names = list(_bound(tree.body))
    if "*" in names or {"globals", "setattr", "exec", "vars"} & used or "__getattr__" in names:
        return None
    return [key for key in dict.fromkeys(names) if not key.startswith("__")]


def _bound(body: Iterable[ast.AST]) -> Iterator[str]:
    """Names that statements bind, without those inside functions and classes; ``*`` for a star import."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                yield node.id
        else:
            yield from _bound(ast.iter_child_nodes(node))


@contextmanager
def _importable(module: str) -> Iterator[None]:
    """The current folder, and that of a file, on the import path: also while a factory runs, which may import more."""
    folders = [str(Path.cwd())]
    if module.endswith(".py"):
        folders.insert(0, str(Path(module).resolve().parent))
    added = [folder for folder in folders if folder not in sys.path]
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            if folder in sys.path:
                sys.path.remove(folder)


def _load(module: str) -> ModuleType:
    if not module.endswith(".py"):
        importlib.invalidate_caches()
        return importlib.import_module(module)
    file = Path(module).resolve()
    # classes are known by their module's name: a file that can be imported by its name is
    known = sys.modules.get(file.stem)
    if known is not None and getattr(known, "__file__", None) == str(file):
        return known
    name = file.stem if known is None and file.stem.isidentifier() else f"_own_{zlib.crc32(str(file).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise RequestError(f"'{file}' cannot be imported as a Python file")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    try:
        spec.loader.exec_module(made)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return made


def _run(name: str, what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except RequestError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code may raise anything, and even exit
        raise RequestError(
            f"model '{name}': {what} raised {type(error).__name__}: {_line(error)}{_where(error)}"
        ) from error


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:300]


def _where(error: BaseException) -> str:
    """The line of the user's code that raised, where the traceback shows one."""
    location, step = "", error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if file != __file__ and not file.startswith("<") and "site-packages" not in file and "importlib" not in file:
            location = f" ({Path(file).name}, line {step.tb_lineno})"
        step = step.tb_next
    return location


def _call(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}"[:60] for key, value in arguments.items())
