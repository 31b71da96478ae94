"""The command line. A verb is one file with one function, and one line in VERBS.

    # edgegen/cli/flip.py
    from typing import Annotated
    import typer
    from . import output

    def flip(source: Annotated[str, typer.Argument(help="Zoo name or run folder.")], json:
    output.Json = False) -> None:
        \"\"\"One line that `edgegen --help` shows.\"\"\"
        from edgegen.core.runtime import Pipeline   # heavy imports stand here, not above
        with output.progress("flipping", total=64) as advance:
            advance(1)
        output.result("flip", {"images": 64})         # the --json document
        output.table(["what", "images"], [["flip", 64]])    # for people; goes to stderr with --json

Errors are raised (edgegen.errors); exit_contract.py turns them into a sentence, an exit code
and the failure document.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from .. import __version__
from ..core.offline import offline
from . import exit_contract
from .bench import bench
from .calibrate import calibrate
from .compare import compare
from .damage import damage
from .doctor import doctor
from .engines import build
from .estimate import estimate
from .explain import explain
from .export import export
from .finetune import finetune
from .generate import generate
from .layers import layers
from .lint import lint
from .merge import merge
from .models import models
from .moved import Command
from .photos import photos
from .plan import plan
from .recover import recover
from .sign import sign
from .train import train
from .verify import verify

VERBS: tuple[Callable[..., None], ...] = (
    train,
    estimate,
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
    models,
    doctor,
)
# verbs that have verbs of their own
GROUPS: dict[str, typer.Typer] = {"photos": photos, "plan": plan}

app = typer.Typer(
    # plain help: half the time, and ASCII everywhere
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
    app.add_typer(_group, name=_name)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version.")
]


@app.callback()
def _top(version: Version = False) -> None:
    """Image generators for edge devices: train, quantize, export, prove, run."""


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit code of one command line; entry point of `edgegen` and `python -m edgegen`."""
    offline()
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = exit_contract.call(_program, given)
    return code if given else 2  # help was shown, but nothing was done


def _program(arguments: list[str]) -> Any:
    command = typer.main.get_command(app)
    if "_EDGEGEN_COMPLETE" in os.environ:  # the shell asks for completions
        return command.main(arguments, prog_name="edgegen")
    # Not command.main: it turns every interruption into exit code 130, and SIGTERM's is 143.
    with command.make_context("edgegen", arguments or ["--help"]) as context:
        command.invoke(context)
