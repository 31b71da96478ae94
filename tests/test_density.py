"""How dense our files are: lengths, arguments, names of classes, circles of imports."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator

from house import ROOT, imports, our_modules, python_files

LONGEST_FUNCTION, MOST_ARGUMENTS = 60, 7

LONGEST = 400


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other in a loop (Tarjan's components of more than one)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in sorted(arrows[module]):
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(arrows):
        if module not in order:
            visit(module)
    return found


def module_arrows() -> dict[str, set[str]]:
    """module -> modules that it imports anywhere; the public door alone names others unimported."""
    modules = our_modules()
    arrows: dict[str, set[str]] = {}
    for name, path in modules.items():
        named = (
            [] if name == "edgegen" else imports(path.read_text(), name, path.name == "__init__.py")
        )
        reached = {n if n in modules else n.rpartition(".")[0] for n in named}
        arrows[name] = {n for n in reached if n in modules and n != name}
    return arrows


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles(module_arrows()) == []


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of the package with where it stands."""
    for name, path in our_modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}:{node.lineno} {node.name}", node


def test_functions_are_short_and_take_few_arguments() -> None:
    """A verb's parameters are its flags, and its lines are theirs: verbs are held to neither."""
    long, wide = [], []
    for place, node in functions():
        if place.startswith("edgegen.cli."):
            continue
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION:
            long.append(place)
        if len([n for n in names if n not in {"self", "cls"}]) > MOST_ARGUMENTS:
            wide.append(place)
    assert long == [] and wide == []


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for name, path in our_modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_file_is_too_long() -> None:
    lengths = {
        p.relative_to(ROOT).as_posix(): len(p.read_text().splitlines()) for p in python_files()
    }
    print(
        f"{len(lengths)} files, {sum(lengths.values())} lines, median "
        f"{statistics.median(lengths.values()):.0f}, "
        f"longest {max(lengths, key=lengths.__getitem__)} ({max(lengths.values())})"
    )
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}
