"""Lock files: every package of a profile with the hashes that the package index publishes.

    python scripts/locks.py     writes requirements/*.txt anew (make locks); asks the package index

Versions are those of constraints.txt, and of the lock that is there for what torch's build for CUDA
brings. One file serves Python 3.11 to 3.13 on Linux x86-64: the script ends where they differ.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
PYTHONS = ("3.11.5", "3.12", "3.13")  # pymdown-extensions needs a later 3.11 than the first
SYSTEM = "x86_64-manylinux_2_28"
OFFICE = ("train", "adapt", "bring", "export", "prompts", "heic", "sign", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Profile:
    """Describe a profile: extras of pyproject.toml, packages beside them, and who installs it."""

    extras: tuple[str, ...]
    what: str
    beside: tuple[str, ...] = ()


PROFILES = {
    "device-openvino": Profile(
        ("openvino", "sign"), "a device with OpenVINO that checks signatures"
    ),
    "device-onnxruntime": Profile(
        ("sign",), "a device with ONNX Runtime for CPUs that checks signatures", ("onnxruntime",)
    ),
    "office": Profile(OFFICE, "whoever trains, adapts, brings and exports, with both runtimes"),
    "development": Profile(
        (*OFFICE, "dev", "docs", "release", "tensorboard", "tensorrt-rtx"),
        "whoever changes edgegen or releases it",
    ),
}
PIN = re.compile(r"^([\w.-]+)==(\S+) ?(.*?)(?=^[\w.-]+==|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Locked:
    """Hold a package as a lock file has it; `via` are the packages that asked for it."""

    version: str
    hashes: tuple[str, ...]  # hexadecimal sha256 of each file of the index
    via: tuple[str, ...]


def read(text: str) -> dict[str, Locked]:
    """Read a lock file's text, by normalized name."""
    return {
        normal(name): Locked(
            version,
            tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", rest)),
            tuple(
                normal(word.partition(" ")[0])
                for word in re.findall(r"^    # +(?:via )?([\w.][\w. ()-]*)$", rest, re.MULTILINE)
                if word != "via"
            ),
        )
        for name, version, rest in PIN.findall(text)
    }


def files(text: str) -> dict[str, tuple[str, ...]]:
    """Return version and hashes of each package: what is installed, whoever asks for it."""
    return {name: (one.version, *one.hashes) for name, one in read(text).items()}


def normal(name: str) -> str:
    """Normalize a name as the index does: ml_dtypes and ml-dtypes are the same."""
    return re.sub(r"[-_.]+", "-", name).lower()


def header(name: str) -> str:
    return (
        f"# What {PROFILES[name].what} installs: Linux x86-64, Python 3.11 to 3.13. Made by "
        "`make locks`.\n"
        f"# pip install --require-hashes -r requirements/{name}.txt, then edgegen's wheel with "
        "--no-deps (docs/guides/air-gap.md).\n"
    )


def compiled(name: str, python: str, folder: Path) -> str:
    """Return the lock file of a profile, as uv makes it for one Python."""
    profile = PROFILES[name]
    beside = folder / "beside.in"
    beside.write_text("\n".join(profile.beside))
    out = folder / "lock.txt"
    before = FOLDER / f"{name}.txt"
    out.write_text(before.read_text("utf-8") if before.is_file() else "")
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config"]
    command += ["--generate-hashes", "--no-header", "--no-emit-index-url"]
    command += ["--python-version", python, "--python-platform", SYSTEM]
    command += [word for extra in profile.extras for word in ("--extra", extra)]
    command += ["--constraint", "constraints.txt", "--output-file", str(out)]
    subprocess.run([*command, "pyproject.toml", str(beside)], check=True, cwd=ROOT)
    text = re.sub(r"^    #   -[cr] .*\n", "", out.read_text("utf-8"), flags=re.MULTILINE)
    return re.sub(r"edgegen \(.*\)", "edgegen", text)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in PROFILES:
            first, *others = (compiled(name, python, Path(folder)) for python in PYTHONS)
            if any(files(other) != files(first) for other in others):
                sys.exit(f"{name}: Python {', '.join(PYTHONS)} take different packages")
            (FOLDER / f"{name}.txt").write_text(header(name) + first, "utf-8")
            print(f"requirements/{name}.txt: {len(read(first))} packages")


if __name__ == "__main__":
    main()
