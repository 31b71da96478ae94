"""The command line. A verb is one file with one function, and one line in VERBS.

    # edgegen/cli/flip.py
    from . import output
    from .options import Source

    def flip(source: Source, json: output.Json = False) -> None:
        \"\"\"The sentence that `edgegen --help` shows.\"\"\"
        from ..workflows.flip import flip_images    # heavy imports stand here, not above
        result = flip_images(source, listen=output.terminal)   # all the work
        output.result("flip", result.to_json())     # the --json document
        output.table(["what", "images"], [["flip", result.images]])    # for people; to stderr with
                                                                       # --json

Errors are raised (edgegen.errors); exit_contract.py turns them into a sentence, an exit code
and the failure document.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from ..core.offline import offline
from ..version import __version__
from . import exit_contract
from .bench import bench
from .calibrate import calibrate
from .compare import compare
from .damage import damage
from .doctor import doctor
from .engines import build
from .errors import errors
from .estimate import estimate
from .explain import explain
from .export import export
from .finetune import finetune
from .generate import generate
from .inspect import inspect
from .layers import layers
from .lint import lint
from .merge import merge
from .models import models
from .moved import Command
from .photos import photos
from .plan import plan
from .recover import recover
from .report import report
from .sign import sign
from .train import train
from .verify import verify

VERBS: tuple[Callable[..., None], ...] = (
    train,
    estimate,
    inspect,
    finetune,
    compare,
    recover,
    merge,
    generate,
    explain,
    layers,
    damage,
    calibrate,
    export,
    build,
    sign,
    lint,
    verify,
    bench,
    report,
    models,
    doctor,
    errors,
)
# verbs with verbs of their own
GROUPS: dict[str, typer.Typer] = {"photos": photos, "plan": plan}


class Verbs(typer.core.TyperGroup):
    """List each verb with its whole sentence, which Typer would cut to the width of the line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sentences = {
            name: " ".join((verb.help or "").split()) for name, verb in self.commands.items()
        }
        with formatter.section("Commands"):
            formatter.write_dl(list(sentences.items()))


app = typer.Typer(
    cls=Verbs,
    # plain help takes half the time, and is ASCII everywhere
    name="edgegen",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=f"{exit_contract.DEBUG_FLAG} or EDGEGEN_DEBUG=1 shows the traceback of an error. "
    "Exit codes: 0 done, 1 bug, 2 usage, "
    "3 gate failed, 4 bad input, 5 environment, 6 trust, 7 resources, 8 busy, 130/143 interrupted.",
)
for _verb in VERBS:
    app.command(cls=Command, no_args_is_help=False)(_verb)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name, cls=Verbs)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version.")
]


@app.callback()
def _top(version: Version = False) -> None:
    """Image generators for edge devices: train them, quantize and export them, prove their quality,
    run them.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; this is the entry point of `edgegen` and
    `python -m edgegen`.
    """
    offline()
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = exit_contract.call(_program, given)
    return code if given else 2  # help was shown, but nothing was done


@functools.cache
def _command(verbs: typer.Typer) -> Any:
    """Return all verbs with their flags; they are built once for each process, because that takes
    longer than a small verb.
    """
    return typer.main.get_command(verbs)


def _program(arguments: list[str]) -> Any:
    command = _command(app)
    if "_EDGEGEN_COMPLETE" in os.environ:  # the shell asks for completions
        return command.main(arguments, prog_name="edgegen")
    # Not command.main: it turns every interruption into exit code 130, and SIGTERM's is 143.
    with command.make_context("edgegen", arguments or ["--help"]) as context:
        command.invoke(context)
