"""What others build on, a line each: every verb, flag and default of the command line, every error
code with its exit codes, and every public Python name with its signature.

    python tests/public_surface.py     writes tests/golden/public.txt anew (make public-names)

Texts of help may change: only that there is one counts, and the test asks for that.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import edgegen
from edgegen.cli.main import app
from edgegen.core.error_codes import CODES, WARNINGS

FILE = Path(__file__).resolve().parent / "golden" / "public.txt"
OBJECT = re.compile(r"<[\w.]*?(\w+) object at 0x[0-9a-f]+>")


@functools.cache
def lines() -> list[str]:
    """In the order of their names, so that a change shows as the lines it changes."""
    return sorted({*command_line(), *error_codes(), *python_names()})


def command_line() -> Iterator[str]:
    """`shell  edgegen VERB ARGUMENTS` in their order, then `shell  edgegen VERB --flag  kind,
    default` and the same of each argument.
    """
    for words, verb in verbs():
        places = [named(option)[0] for option in verb.params if positional(option)]
        yield " ".join(("shell ", words, *places))
        for option in verb.params:
            yield f"shell  {words} {', '.join(named(option))}  {', '.join(traits(option))}"


def verbs() -> Iterator[tuple[str, Any]]:
    """Every command with its words, groups and their verbs too."""
    todo = [("edgegen", typer.main.get_command(app))]
    while todo:
        words, verb = todo.pop()
        todo += [(f"{words} {name}", one) for name, one in getattr(verb, "commands", {}).items()]
        yield words, verb


def positional(option: Any) -> bool:
    return bool(option.param_type_name == "argument")


def named(option: Any) -> list[str]:
    if positional(option):
        return [option.metavar or option.name.upper()]
    return [*option.opts, *option.secondary_opts]


def traits(option: Any) -> Iterator[str]:
    """What a script that calls the verb relies on."""
    kind = re.sub(r"\b(?:\w+\.)+", "", str(annotation(option.type_descriptor.annotation)))
    yield "flag" if getattr(option, "is_flag", False) else kind
    yield from (f"at least {option.min}",) if option.min is not None else ()
    yield from (f"at most {option.max}",) if option.max is not None else ()
    yield from ("as often as wanted",) if option.multiple or option.nargs != 1 else ()
    yield from ("hidden",) if option.hidden else ()
    yield "required" if option.required else f"default {default(option.default)}"


def annotation(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def default(value: Any) -> str:
    """Without addresses in memory, and with paths as any system writes them; settings that nobody
    has set by their class.
    """
    made: Any = type(value)
    if hasattr(value, "__dataclass_fields__") and value == made():
        return f"{made.__name__}()"
    text = f"Path({value.as_posix()!r})" if isinstance(value, Path) else repr(value)
    return OBJECT.sub(r"\1()", text)


def error_codes() -> Iterator[str]:
    for code in (*CODES.values(), *WARNINGS.values()):
        yield f"code   {code.code}  exit {', '.join(map(str, code.exits)) or '0'}"


def python_names() -> Iterator[str]:
    for name in edgegen.__all__:
        value = getattr(edgegen, name)
        if inspect.isclass(value):
            yield from members(value)
        elif callable(value):
            yield f"python {name}{signature(value)}"
        else:
            yield f"python {name}: {type(value).__name__}"


def members(kind: type) -> Iterator[str]:
    """A dataclass field by field, since that is how settings grow; then methods and properties."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    bases = [base.__name__ for base in kind.__bases__ if base is not object]
    made = "" if is_protocol(kind) else signature(kind)
    if fields:  # what each is stands in its own line
        made = f"({', '.join(inspect.signature(kind).parameters)})"
    yield f"python {kind.__name__}{made}{' is ' if bases else ''}{' and '.join(bases)}"
    for field in fields:
        yield f"python {kind.__name__}.{field.name}: {field.type}{given(field)}"
    own = {field.name for field in fields}
    for name, value in inspect.getmembers_static(kind):
        if name.startswith("_") or name in own or not ours(kind, name):
            continue
        if isinstance(value, property):
            got = inspect.signature(value.fget).return_annotation if value.fget else "Any"
            yield f"python {kind.__name__}.{name} -> {got}"
        elif callable(plain := getattr(value, "__func__", value)):
            yield f"python {kind.__name__}.{name}{signature(plain)}"


def is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def ours(kind: type, name: str) -> bool:
    """Not what Exception, Generic and the like bring."""
    owner = next(base for base in kind.__mro__ if name in vars(base))
    return owner.__module__.startswith("edgegen")


def given(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {default(field.default)}"
    if field.default_factory is not dataclasses.MISSING:
        return f" = {getattr(field.default_factory, '__name__', '?')}()"
    return ""


def signature(value: Any) -> str:
    """As it is written in the source: annotations are strings there, whatever Python runs."""
    found = inspect.signature(value)
    shown = [
        p.replace(default=Shown(default(p.default)))
        if p.default is not inspect.Parameter.empty
        else p
        for p in found.parameters.values()
    ]
    text = str(found.replace(parameters=shown))
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


class Shown(str):
    """A default that is printed as it is, without quotes of its own."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n", "utf-8")
    print(f"{FILE.name}: {len(lines())} lines")
