"""Entry point: exit code 0 done, 1 the work failed, 2 the request was wrong."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import typer
from typer.main import get_command

from secateur.cli import (
    compare,
    data,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    optimise,
    prototypes,
    prune,
    report,
    study,
    toy,
    train,
)
from secateur.core import interruption
from secateur.core.addresses import without_secrets
from secateur.core.errors import SecateurError
from secateur.core.ranks import launched, ranks

# typer brings its own copy of click in newer versions and uses the installed one in older ones
_UsageError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"max_content_width": 100},
    rich_markup_mode=None,  # plain help: rich takes longer to import than all the rest
    help="Prune neural networks by what they find relevant: smaller and faster, with the explanation.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"secateur {version('secateur')}")
        raise typer.Exit


_ON_SEVERAL_RANKS = ("evaluate", "prune", "train")


@app.callback()
def _root(
    context: typer.Context,
    _: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version and exit."),
) -> None:
    """Global options."""
    if context.invoked_subcommand not in _ON_SEVERAL_RANKS:
        ranks().check_alone(f"secateur {context.invoked_subcommand}")


for _module in (demo, doctor, train, prune, compare, optimise, evaluate, explain, export, report):
    app.command(_module.__name__.rpartition(".")[2])(_module.command)
app.add_typer(data.app, name="data")
app.add_typer(prototypes.app, name="prototypes")
app.add_typer(study.app, name="study")
app.add_typer(toy.app, name="toy")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors are one line on standard error."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code; of several ranks, one speaks."""
    interruption.forget()
    warnings.filterwarnings("ignore", module="torch|torchvision")
    try:
        with launched(muted=True):
            result = get_command(app)(args=None if arguments is None else list(arguments), standalone_mode=False)
            if result == 130:
                raise KeyboardInterrupt  # newer typers turn it into this code
        return int(result) if isinstance(result, int) else 0
    except SecateurError as error:
        message, code = str(error), error.exit_code
    except _UsageError as error:
        message, code = error.format_message(), 2  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        message, code = f"interrupted; {interruption.message()}", 130
    except MemoryError:
        message, code = "out of memory; use a smaller batch size", 1
    if message:  # none where the help was all there is to say
        typer.secho(f"secateur: {without_secrets(' '.join(message.split()))}", fg="red", err=True)
    return code
