"""The shape of the house: who may import whom, how long a file may be, what a device never imports,
what is packaged.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgegen
from edgegen.core.offline import OFFLINE

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 400
SEAMS = {"export", "calibrate"}  # top-level folders whose packages live under edgegen.
# "edgegen" is edgegen/__init__.py itself, a door: it names what workflows have, and imports nothing
# until it is asked
BASE = {"errors", "edgegen"}
WINGS = {"families", "zoo", "training", "explain", "machine", "calibrate", "export", "evidence"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "core": BASE,
    **dict.fromkeys(WINGS, BASE | {"core"}),
    "training": BASE | {"core", "families"},
    "explain": BASE | {"core", "families"},
    "workflows": BASE | {"core"} | WINGS,
    "edgegen": BASE | {"core", "machine", "workflows"},
    "cli": BASE | {"core", "workflows"} | WINGS,
    "__main__": {"cli"},
}
PRINTS = {"cli"}  # and a child process that answers its parent on stdout
ANSWERS_ON_STDOUT = "edgegen.machine.child_process"
LONGEST_FUNCTION, MOST_ARGUMENTS = 60, 7
FREE_OF = (
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "pandas",
    "scipy",
    "diffusers",
    "peft",
)
WITH_TORCH = {  # and no other module of core, evidence and zoo
    "edgegen.core.graph",
    "edgegen.core.tap",
    "edgegen.core.testing",
    "edgegen.evidence.features",
    "edgegen.evidence.networks",
}


def python_files() -> list[Path]:
    """Every .py file once, links not followed."""
    places = ("edgegen", "export", "calibrate", "tests", "benchmarks", "scripts", "docs")
    return sorted(
        Path(top, f)
        for p in places
        for top, _, files in os.walk(ROOT / p)
        for f in files
        if f.endswith(".py")
    )


def dotted(path: Path) -> str:
    """edgegen/core/spec.py and export/qdq.py -> edgegen.core.spec and edgegen.export.qdq"""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = ["edgegen", *parts] if parts[0] in SEAMS else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def our_modules() -> dict[str, Path]:
    return {
        dotted(p): p for p in python_files() if p.relative_to(ROOT).parts[0] in {"edgegen", *SEAMS}
    }


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Absolute names of what a module imports, wherever in the file; `from a import b` gives
    a.b.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = module.split(".")[: len(module.split(".")) - node.level + is_package]
            base = ".".join([*(up if node.level else []), *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def wing(name: str) -> str | None:
    """ "edgegen.core.spec" -> "core"; "edgegen.__version__" -> "edgegen"; another library ->
    None
    """
    top, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    if top in SEAMS:
        return f"bare {top}"
    return None if top != "edgegen" else first if first in MAY_IMPORT else "edgegen"


def wrong_arrows(source: str, module: str, is_package: bool = False) -> list[str]:
    here = wing(module) or ""
    allowed = {here, *MAY_IMPORT[here]}
    return [
        f"{module} -> {name}"
        for name in imports(source, module, is_package)
        if wing(name) not in {None, *allowed}
    ]


def test_arrows() -> None:
    found = our_modules().items()
    assert len(found) > 25
    assert [
        w
        for name, path in found
        for w in wrong_arrows(path.read_text(), name, path.name == "__init__.py")
    ] == []


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("edgegen.core.spec", "from ..export import qdq", "edgegen.export.qdq"),
        ("edgegen.core.spec", "import edgegen.cli.main", "edgegen.cli.main"),
        (
            "edgegen.export.qdq",
            "def f():\n    from edgegen.calibrate.observe import x",
            "edgegen.calibrate.observe.x",
        ),
        ("edgegen.evidence.verify", "from edgegen import families", "edgegen.families"),
        ("edgegen.training.loop", "import export", "export"),
        ("edgegen.errors", "from .core import spec", "edgegen.core.spec"),
        ("edgegen.workflows.bench", "from ..cli import output", "edgegen.cli.output"),
        ("edgegen.machine.probe", "from ..export import runtime", "edgegen.export.runtime"),
        ("edgegen.evidence.bench", "from ..workflows import context", "edgegen.workflows.context"),
    ],
)
def test_a_wrong_arrow_is_found(module: str, source: str, bad: str) -> None:
    assert wrong_arrows(source, module) == [f"{module} -> {bad}"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "edgegen.training.loop",
            "from ..families import Recipe\nfrom ..core.spec import Array\nfrom .data import "
            "Photos",
        ),
        ("edgegen.export.manifest", "from edgegen import __version__\nfrom . import qdq"),
        ("edgegen.cli.export", "from edgegen.export import runtime\nfrom ..training import run"),
    ],
)
def test_a_right_arrow_passes(module: str, source: str) -> None:
    assert wrong_arrows(source, module) == []


def test_nothing_but_the_command_line_prints_or_knows_its_libraries() -> None:
    """No call of print, and no import of typer or rich, outside edgegen/cli."""
    guilty = []
    for name, path in our_modules().items():
        if wing(name) in PRINTS:
            continue
        source = path.read_text()
        names = imports(source, name, path.name == "__init__.py")
        guilty += [f"{name} imports {n}" for n in names if n.partition(".")[0] in {"typer", "rich"}]
        guilty += [
            f"{name}:{node.lineno} prints"
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
            and name != ANSWERS_ON_STDOUT
        ]
    assert guilty == []


def test_benchmarks_and_scripts_call_workflows_and_no_verb() -> None:
    guilty = [
        f"{path.relative_to(ROOT)} -> {name}"
        for path in python_files()
        if path.relative_to(ROOT).parts[0] in {"benchmarks", "scripts"}
        for name in imports(path.read_text(), "x.y", False)
        if name.startswith("edgegen.cli")
    ]
    assert guilty == []


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


def test_every_package_is_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    on_disk = {dotted(path) for path in our_modules().values() if path.name == "__init__.py"}
    folders = {
        dotted(path).rpartition(".")[0]
        for path in our_modules().values()
        if path.name != "__init__.py"
    }
    assert folders <= on_disk, "a folder with modules has no __init__.py"
    assert set(settings["tool"]["setuptools"]["packages"]) == on_disk
    assert settings["project"]["version"] == edgegen.__version__


def test_every_file_of_the_zoo_is_packaged() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]["edgegen.zoo"]
    zoo = ROOT / "edgegen" / "zoo"
    packaged = {path for pattern in patterns for path in zoo.glob(pattern)}
    assert {
        p for p in zoo.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")
    } == packaged


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    # tensorrt comes from its vendor's index for one CUDA version: the machine decides
    assert {re.split(r"[<>=\[; ]", r)[0].lower() for r in wanted} - pinned == {"tensorrt"}


def test_links_make_the_top_folders_part_of_the_package() -> None:
    for name in sorted(SEAMS):
        assert os.readlink(ROOT / "edgegen" / name) == f"../{name}"
        if (listed := git("ls-files", "-s", f"edgegen/{name}")) is not None:
            assert listed.startswith("120000 "), f"edgegen/{name} must be tracked as a link"


@pytest.mark.parametrize("name", sorted(SEAMS))
def test_the_bare_name_is_refused(name: str) -> None:
    done = python(f"import {name}")
    assert done.returncode == 1
    assert (
        f"ImportError: import edgegen.{name}: the bare name would load a second copy of every class"
        in done.stderr
    )


def device_modules() -> list[str]:
    """What may run on a device: found on disk, so that a new file is held to it too."""
    from edgegen.export import RUNTIMES

    wings = [
        m for m in our_modules() if wing(m) in {"core", "evidence", "zoo"} and m not in WITH_TORCH
    ]
    runtimes = [target.partition(":")[0] for target in RUNTIMES.values()]
    others = [
        "edgegen",
        "edgegen.errors",
        "edgegen.export",
        "edgegen.calibrate",
        "edgegen.cli.main",
        "edgegen.machine.probe",
    ]
    return [*others, *wings, *runtimes]


def test_a_device_imports_nothing_heavy() -> None:
    code = f"""
import importlib, sys
for name in {device_modules()!r}:
    importlib.import_module(name)
    heavy = sorted(set({FREE_OF!r}) & set(sys.modules))
    assert not heavy, f"{{name}} imports {{heavy}}"
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "code", ["import edgegen", "from edgegen.cli.main import run; run(['--help'])"]
)
def test_import_and_help_are_instant(code: str) -> None:
    slow = {"numpy", "pydantic_core", *FREE_OF}
    done = python(
        f"{code}\nimport sys; print(sorted({slow!r} & set(sys.modules)), file=sys.stderr)"
    )
    assert done.stderr == "[]\n"


PUBLIC = """
BenchSettings CalibrateSettings DamageSettings DoctorSettings EdgegenError EngineSettings
EstimateSettings Execution ExplainSettings ExportResult ExportSettings FinetuneSettings GateFailed
GenerateSettings Listener LoadedGenerator OpenedBundle PhotosSettings Pipeline RecoverSettings
SamplingChoices TrainSettings Verdict VerifySettings __version__ bench_bundle build_engines
calibrate_generator check_photos compare_runs estimate_training examine_machine explain_generator
export_bundle finetune generate_images lint_model list_layers load_generator map_damage
merge_adapter offline open_bundle read_plan recover sign_bundle train verify_bundle zoo_models
""".split()  # noqa: SIM905


def test_public_names_are_pinned() -> None:
    assert edgegen.__all__ == PUBLIC
    for name in edgegen.__all__:
        assert getattr(edgegen, name) is not None
    assert set(PUBLIC) <= set(dir(edgegen))
    with pytest.raises(AttributeError, match="module 'edgegen' has no attribute 'nothing'"):
        _ = edgegen.nothing


def test_a_type_checker_sees_the_public_names_that_a_program_gets() -> None:
    """The imports under TYPE_CHECKING and the table that loads them lazily are one list."""
    tree = ast.parse((ROOT / "edgegen" / "__init__.py").read_text())
    typed = {
        alias.asname: f"edgegen.{node.module}"
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == edgegen._MODULES


def test_public_names_are_found_by_many_threads_at_once() -> None:
    code = """
import threading, edgegen
barrier, found, failed = threading.Barrier(16), [], []
def ask():
    barrier.wait()
    try:
        found.append([getattr(edgegen, name) for name in edgegen.__all__])
    except Exception as error:
        failed.append(error)
threads = [threading.Thread(target=ask) for _ in range(16)]
[t.start() for t in threads]; [t.join() for t in threads]
assert not failed and all(names == found[0] for names in found), failed
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_the_package_hides_no_sub_package() -> None:
    for name in sorted(SEAMS):
        module = importlib.import_module(f"edgegen.{name}")
        assert getattr(edgegen, name) is module


def test_no_name_of_one_machine_or_registry() -> None:
    # written so that they do not match this file
    pattern = re.compile(
        r"/work[/](main|shared)|/opt[/](venv|pypi)|/root[/]|/tmp[/]w/|pypi[.]org|pythonhosted[.]org|"
        r"download[.]pytorch[.]org|pypi[.]nvidia[.]com"
    )
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed is None:
        pytest.skip("not a git checkout: nothing says which files are ours")
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if (
            path.is_file()
            and not path.is_symlink()
            and b"\0" not in (data := path.read_bytes()[:1_000_000])
        ):
            found += [
                f"{name}: {match[0]}" for match in pattern.finditer(data.decode("utf-8", "replace"))
            ]
    assert found == []


def git(*arguments: str) -> str | None:
    """What git prints; None outside a checkout."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 and (ROOT / ".git").exists() else None


def python(
    code: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter in the checkout."""
    offline = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    env = {**(os.environ if environment is None else offline), **(environment or {})}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
