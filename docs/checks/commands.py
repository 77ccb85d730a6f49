"""Commands that a page shows, parsed by the programs that they call, without running them."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import typer
import yaml
from pydantic import BaseModel
from typer.main import get_command

from checks.pages import Code, Page, Problem
from secateur.cli.main import app
from secateur.cli.options import settings_from
from secateur.core.errors import RequestError
from secateur.criteria import get, parse
from secateur.models import known_models
from secateur.pipeline import Recipe
from secateur.prototypes import PrototypeRecipe
from secateur.studies.catalogue import study_class
from secateur.studies.search import SearchStudySettings
from secateur.studies.toy import ToySettings

SHELLS = ("sh", "bash", "console")
LAUNCHERS = ("torchrun", "accelerate", "srun", "ray")
# typer brings its own copy of click in newer versions and uses the installed one in older ones
_Wrong: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
# words that stand for the reader's own: MODEL, DIR, N
_PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z]+)?$")


@dataclass(frozen=True)
class Parsed:
    """A command line of ours.

    Attributes:
        path: names of the command, ``("toy", "grid")``.
        values: by option, ``{"--set": [...], ...}``, and by name for arguments.
    """

    path: tuple[str, ...]
    values: dict[str, Any]

    def all(self, name: str) -> list[str]:
        """Every value of an option or argument, as text; placeholders are left out."""
        value = self.values.get(name)
        several = value if isinstance(value, list | tuple) else [] if value is None else [value]
        return [str(item) for item in several if not _PLACEHOLDER.fullmatch(str(item))]


def command_problems(page: Page, root: Path) -> Iterator[Problem]:
    """Commands of ours that do not parse, settings that do not exist, scripts and targets that are not there."""
    for code in page.code:
        if code.language not in (None, "yaml", *SHELLS):
            continue
        for line, words in _lines(_entrypoints(code) if code.language == "yaml" else code):
            for message in _wrong(words, root, whole=code.language is not None):
                yield Problem(page.path, line, f"'{' '.join(words)}': {message}")


def setting_problems(page: Page) -> Iterator[Problem]:
    """Recipes in YAML that are refused, and settings named in sentences that no recipe has."""
    sections = "|".join(name for name, field in Recipe.model_fields.items() if _is_section(field.annotation))
    for code in page.fences("yaml"):
        try:
            loaded = yaml.safe_load(code.text)
            if "apiVersion" in (loaded or {}):
                continue  # a manifest of Kubernetes, whose command is checked with the others
            Recipe.model_validate(loaded)
        except ValueError as error:
            yield Problem(page.path, code.line, f"not a recipe: {' '.join(str(error).split())}")
    for code in page.sentences:
        found = re.fullmatch(rf"((?:{sections})(?:\.\w+)+)(?:(?:=|: )(.*))?", code.text)
        if found and not code.text.endswith((".py", ".yaml", ".json", ".csv", ".safetensors")):
            try:
                _check_setting(found.group(1), found.group(2))
            except RequestError as error:
                yield Problem(page.path, code.line, f"'{code.text}': {error}")


def command_names() -> set[str]:
    """All commands, ``toy grid`` for those within another."""
    return {" ".join(path) for path, _ in _commands()}


def commands_without(option: str) -> set[str]:
    """Names of the commands that do not take an option."""
    return {" ".join(path) for path, c in _commands() if not any(option in p.opts for p in c.params)}


def _lines(code: Code) -> Iterator[tuple[int, list[str]]]:
    """Words of each command line, continuation lines joined."""
    text = re.sub(r"\\\n\s*", " ", code.text)
    for offset, line in enumerate(text.splitlines()):
        try:
            words = shlex.split(line.removeprefix("$ "), comments=code.language is not None)
        except ValueError:
            continue  # an apostrophe: not a command
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        if words:
            yield code.line + offset, words


def _entrypoints(code: Code) -> Code:
    """The commands of a manifest of Kubernetes, on the lines where they are."""
    found = (re.fullmatch(r"\s*entrypoint: (secateur .*)", line) for line in code.text.splitlines())
    return replace(code, text="\n".join(each[1] if each else "" for each in found), language="sh")


def _wrong(words: list[str], root: Path, *, whole: bool) -> Iterator[str]:
    if words[0] in LAUNCHERS and "secateur" in words:
        words = words[words.index("secateur") :]
    if words[0] == "secateur":
        yield from _wrong_command(words[1:], whole)
    elif words[:3] == ["python", "-m", "secateur"]:
        yield from _wrong_command(words[3:], whole)
    elif words[0] == "python" and len(words) > 1 and words[1].startswith("benchmarks/"):
        yield from _wrong_script(words[1:], root)
    elif words[0] == "make" and len(words) > 1:
        targets = re.findall(r"^([\w-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        yield from (f"the Makefile has no target '{w}'" for w in words[1:] if "=" not in w and w not in targets)
    elif words[0].startswith("--") and not whole:
        yield from _wrong_option(words)


def _wrong_command(words: list[str], whole: bool) -> Iterator[str]:
    try:
        parsed = _parse(words, whole)
        if parsed is not None:
            _check_values(parsed)
    except RequestError as error:
        yield str(error)
    except _Wrong as error:
        yield error.format_message()  # type: ignore[attr-defined]


def _parse(words: list[str], whole: bool) -> Parsed | None:
    """A command line as the program parses it; None where only a group of commands is named."""
    command, path, parent = _program(), (), None
    words = [word for word in map(_plain, words) if word not in ("", "...", "…")]
    while hasattr(command, "list_commands"):
        parent = command.context_class(command, info_name=path[-1] if path else "secateur", parent=parent)
        if not words or words[0].startswith("-"):
            known = {option for parameter in command.get_params(parent) for option in parameter.opts}
            known |= {"--install-completion", "--show-completion"} if app._add_completion and not path else set()
            unknown = [word for word in words if word not in known]
            if unknown:
                raise RequestError(f"no such option or command: {unknown[0]}")
            return None
        name, words = words[0], words[1:]
        found = command.get_command(parent, name)
        if found is None:
            raise RequestError(f"no such command: {name}; known: {', '.join(command.list_commands(parent))}")
        command, path = found, (*path, name)
    try:
        context = command.make_context(path[-1], words, parent=parent)
    except typer.Exit:
        return None
    except _Wrong as error:
        if type(error).__name__ == "MissingParameter" and not whole:
            return None  # a sentence may name a command without its arguments
        raise
    names = {p.name: next((o for o in p.opts if o.startswith("--")), p.name) for p in command.params}
    return Parsed(path, {names[name]: value for name, value in context.params.items() if name in names})


def _plain(word: str) -> str:
    """A word without what a manual writes around it: ``[--out``, ``FILE]``, ``auto|package``; N is a number."""
    if word.startswith("[-"):
        word = word[1:]
    if word.endswith("]") and "[" not in word:
        word = word[:-1]
    if "|" in word and "=" not in word:
        word = word.partition("|")[0]
    return "1" if re.fullmatch("[A-Z]", word) else word


def _check_values(parsed: Parsed) -> None:
    """Recipe, settings, criteria and networks that a command names exist."""
    recipes = [name for name in parsed.all("--recipe") if not name.endswith((".yaml", ".yml"))]
    overrides = [text for text in parsed.all("--set") if text.partition("=")[0] not in ("section.key", "a.b", "A.B")]
    settings_from(_settings_of(parsed), recipes[0] if recipes else None, overrides)
    criteria = parsed.all("--criterion") if parsed.path[0] != "prototypes" else ()
    for text in (text for text in criteria if not text.startswith("$(")):
        name, parameters = parse(text)
        get(name, **parameters)
    for name in [*parsed.all("--model"), *parsed.all("model")]:
        if not re.search(r"[/:.]", name) and name not in known_models():
            raise RequestError(f"unknown model '{name}'; known: {', '.join(known_models())}")


def _settings_of(parsed: Parsed) -> type[BaseModel]:
    """What the settings of a command are, whose names ``--set`` gives."""
    if parsed.path[0] == "toy":
        return ToySettings
    if parsed.path[0] == "prototypes":
        return PrototypeRecipe
    if parsed.path == ("optimise",):
        return SearchStudySettings
    if parsed.path == ("study", "retry"):  # of any study; what may be changed, such as execution, all of them have
        return SearchStudySettings
    if parsed.path == ("study", "run"):
        return next((study_class(name).settings_type for name in parsed.all("name")), Recipe)
    return Recipe


def _wrong_script(words: list[str], root: Path) -> Iterator[str]:
    path = root / words[0]
    if not path.is_file():
        yield "the script does not exist"
        return
    known = _script_options(path)
    for word in words[1:]:
        option = word.partition("=")[0]
        if option.startswith("--") and not {option, option.replace("--no-", "--")} & known:
            yield f"the script has no option {option}; known: {', '.join(sorted(known))}"


def _script_options(path: Path) -> frozenset[str]:
    """Options of a script that uses argparse or typer, read off its source."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("--"):
            found |= set(node.value.split("/"))
        elif isinstance(node, ast.arg) and node.annotation and "typer.Option" in ast.unparse(node.annotation):
            found.add("--" + node.arg.replace("_", "-"))
    return frozenset(found)


def _wrong_option(words: list[str]) -> Iterator[str]:
    """An option by itself must be one of some command; its value must be right if it is a setting."""
    option = words[0].partition("=")[0]
    if option not in _options():
        yield "no command has this option"
    elif option == "--set" and len(words) > 1 and words[1].partition("=")[0] not in ("section.key", "a.b", "A.B"):
        key, _, value = words[1].partition("=")
        try:
            _check_setting(key, value)
        except RequestError as error:
            yield str(error)


def _check_setting(key: str, value: str | None) -> None:
    """A key of a recipe, of prototype networks or of others, and the value if one is given that stands for itself."""
    known = [whole for whole in (Recipe, PrototypeRecipe, SearchStudySettings) if _has(whole, key)]
    whole = known[0] if known else Recipe
    kind: Any = whole
    for part in key.split("."):
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return  # free-form, as a criterion's parameters
        if part not in kind.model_fields:
            raise RequestError(f"a recipe has no '{key}'; '{part}' is none of: {', '.join(kind.model_fields)}")
        kind = _section(kind.model_fields[part].annotation)
    if value and not _PLACEHOLDER.fullmatch(value) and "..." not in value:
        settings_from(whole, None, [f"{key}={value}"])


def _has(kind: Any, key: str) -> bool:
    """Whether a recipe of this kind has the key, as far as it is made of settings."""
    for part in key.split("."):
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return True
        if part not in kind.model_fields:
            return False
        kind = _section(kind.model_fields[part].annotation)
    return True


def _section(annotation: Any) -> Any:
    """The settings within an annotation, also an optional one."""
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), annotation)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


@cache
def _program() -> Any:
    return get_command(app)


@cache
def _options() -> frozenset[str]:
    listed = {option for _, command in _commands() for p in command.params for option in (*p.opts, *p.secondary_opts)}
    return frozenset({*listed, "--help", "--version", "--install-completion"})


def _commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its names, those of groups one by one."""
    command = command or _program()
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    context = command.context_class(command, info_name="secateur")
    for name in command.list_commands(context):
        yield from _commands(command.get_command(context, name), (*path, name))
