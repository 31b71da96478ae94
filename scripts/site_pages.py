"""Add what `make docs` needs to the pages under docs/: the README as the first page, the command
line's and the package's reference from the code, and what pages show that lies outside docs/.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the zoo's pictures."""
    pages = {
        "index.md": (ROOT / "README.md").read_text("utf-8"),
        "reference/command-line.md": command_line(),
        "reference/python.md": python_names(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for grid in sorted((ROOT / "edgegen" / "zoo").glob("*/grid.png")):
        files.append(
            File.generated(config, f"zoo/{grid.parent.name}.png", content=grid.read_bytes())
        )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links that leave docs/: pictures of the zoo are on the site too, other files are only
    named.
    """
    name = page.file.src_uri
    here = ROOT if name == "index.md" else (ROOT / "docs" / name).parent

    def followed(found: re.Match[str]) -> str:
        picture, text, target, anchor = found.groups()
        if "://" in target:
            return found[0]
        aim = (here / target).resolve()
        up = "../" * name.count("/")
        if aim.is_relative_to(ROOT / "docs"):
            inside = aim.relative_to(ROOT / "docs").as_posix()
            return f"{picture}[{text}]({up}{inside}{anchor or ''})"
        if aim.is_relative_to(ROOT / "edgegen" / "zoo"):
            return f"{picture}[{text}]({up}zoo/{aim.parent.name}.png)"
        if aim == ROOT / "README.md":
            return f"[{text}]({up}index.md)"
        return f"{text} (`{aim.relative_to(ROOT).as_posix()}`)"

    return LINK.sub(followed, markdown)


def command_line() -> str:
    """Return every verb with its options, from the code, as a user's own shell would ask for it;
    lists of verbs have whole sentences, which Typer would cut.
    """
    asked = ("-m", "typer", "edgegen.cli.main", "utils", "docs", "--name", "edgegen")
    text = subprocess.run(
        [sys.executable, *asked], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    whole = dict(re.findall(r"^#+ `edgegen (.+)`\n\n(.+(?:\n.+)*)", text, re.MULTILINE))

    def sentence(found: re.Match[str]) -> str:
        matching = [said for words, said in whole.items() if words.split()[-1] == found[1]]
        return f"* `{found[1]}`: {' '.join(matching[0].split())}" if matching else found[0]

    text = re.sub(r"^\* `([\w-]+)`: .*\.\.\.$", sentence, text, flags=re.MULTILINE)
    return text.replace("# `edgegen`", "# Command line", 1)


def python_names() -> str:
    """Return every public name with its docstring, from the code, and the fields of settings and
    results.
    """
    import edgegen

    modules = {
        name: sys.modules[value.__module__]
        for name in edgegen.__all__
        if hasattr(value := getattr(edgegen, name), "__module__")
    }
    parts = [
        "# Python\n\nWhat `import edgegen` gives: names are loaded when they are first used. "
        "[edgegen in your program](../python.md) shows them at work.\n"
    ]
    for name, module in sorted(modules.items(), key=lambda item: (item[0][0].isupper(), item[0])):
        parts.append(f"::: {module.__name__}.{name}\n")
        value = getattr(edgegen, name)
        if dataclasses.is_dataclass(value):
            parts.append(fields_of(value))
    return "\n".join(parts)


def fields_of(kind: type) -> str:
    """Return a table of a dataclass's fields: type, default, and the comment beside or above it."""
    lines = inspect.getsource(kind).splitlines()
    rows, above = [], ""
    for line in lines:
        found = re.match(r"    (\w+): (.+?)(?: = (.+?))?(?:  # (.*))?$", line)
        comment = re.match(r"    # (.*)$", line)
        if found and found[1] in {field.name for field in dataclasses.fields(kind)}:
            name, of, default, beside = found.groups()
            cells = [f"`{name}`", f"`{of}`", f"`{default}`" if default else "", beside or above]
            rows.append(" | ".join(cell.replace("|", "or") for cell in cells))
        above = f"{above} {comment[1]}".strip() if comment else ""
    if not rows:
        return ""
    return "\n".join(["field | type | default | what", "---|---|---|---", *rows, ""])
