"""Old spellings: a flag that became a verb of its own is refused with a sentence that names it.

    @moved({"--compare": "edgegen compare RUN RUN"})
    def finetune(...) -> None:

The flag is no parameter of the verb any more and does not appear in its help. Whatever else stands
on the line, with or without values, the answer is the same: E-MOVED and exit code 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from typer import Context
from typer.core import TyperCommand

from ..errors import UsageError

Verb = TypeVar("Verb", bound=Callable[..., None])

_MOVED: dict[str, Mapping[str, str]] = {}


def moved(spellings: Mapping[str, str]) -> Callable[[Verb], Verb]:
    """Tell a verb which flags it once had, and the command line to type instead of each."""

    def remember(verb: Verb) -> Verb:
        _MOVED[verb.__name__] = spellings
        return verb

    return remember


class Command(TyperCommand):
    """Make a verb that knows its old spellings; main.py makes every verb one."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:  # type: ignore[override]
        for argument in args[: args.index("--")] if "--" in args else args:
            flag = argument.partition("=")[0]
            if now := _MOVED.get(self.name or "", {}).get(flag):
                raise UsageError(
                    "E-MOVED",
                    f"edgegen {self.name} no longer has the option {flag}",
                    hint=f"use {now}",
                )
        return super().parse_args(ctx, args)
