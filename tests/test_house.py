"""The shape of the house: who may import whom, how long a file may be, what a device never imports,
what is packaged.
"""

from __future__ import annotations

import ast
import os
import re
import tomllib

import pytest
from house import ROOT, SEAMS, dotted, git, imports, our_modules, python, python_files

import edgegen

# "edgegen" is edgegen/__init__.py itself, a door: it names what workflows have, and imports nothing
# until it is asked
BASE = {"errors", "edgegen"}
WINGS = {
    "bring",
    "families",
    "zoo",
    "training",
    "explain",
    "machine",
    "calibrate",
    "export",
    "evidence",
}
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
    "transformers",
)
WITH_TORCH = {  # and no other module of core, evidence and zoo
    "edgegen.core.graph",
    "edgegen.core.tap",
    "edgegen.core.testing",
    "edgegen.evidence.features",
    "edgegen.evidence.pixels",
    "edgegen.evidence.vision_transformers",
    "edgegen.evidence.networks",
    "edgegen.evidence.one_thread",
}


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
        ("edgegen.bring.wrap", "from ..families import Recipe", "edgegen.families.Recipe"),
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


@pytest.mark.slow
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
