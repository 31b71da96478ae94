"""Lock files, licences and bills of materials say what constraints.txt and pyproject.toml say."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from typing import Any

import pytest
from house import ROOT
from packaging.requirements import Requirement

REQUIREMENTS = ROOT / "requirements"
# What torch's build for CUDA brings, which no environment of ours without a GPU has.
OF_CUDA = re.compile(r"(nvidia|cuda)-[\w-]+|triton")
HEAVY = {"torch", "onnx", "onnxscript", "diffusers", "transformers", "peft", "accelerate", "scipy"}


def script(name: str) -> Any:
    """A module of scripts/, which is no package."""
    folder = str(ROOT / "scripts")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


locks = script("locks")
licences = script("licences")


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {locks.normal(name): version for name, version in pins}


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return found


def asked_for(profile: str) -> list[Requirement]:
    """edgegen's own dependencies and those of the profile's extras."""
    settings, of = project(), locks.PROFILES[profile]
    extras = settings["optional-dependencies"]
    lines = [*settings["dependencies"], *(line for e in of.extras for line in extras[e])]
    return [Requirement(line) for line in (*lines, *of.beside)]


def test_there_is_a_file_for_each_profile_and_no_other() -> None:
    assert {path.stem for path in REQUIREMENTS.glob("*.txt")} == set(locks.PROFILES)


@pytest.mark.parametrize("profile", locks.PROFILES)
def test_a_lock_has_the_versions_of_the_constraints(profile: str) -> None:
    pinned = constraints()
    found = {name: one.version for name, one in licences.lock(profile).items()}
    other = {n: v for n, v in found.items() if pinned.get(n) != v and not OF_CUDA.fullmatch(n)}
    assert other == {}, "constraints.txt says otherwise: make locks"


@pytest.mark.parametrize("profile", locks.PROFILES)
def test_a_lock_has_all_that_the_profile_asks_for(profile: str) -> None:
    found = licences.lock(profile)
    for wanted in asked_for(profile):
        one = found.get(locks.normal(wanted.name))
        assert one and wanted.specifier.contains(one.version), f"{wanted}: make locks"
    unasked = {name for name, one in found.items() if not one.via}
    assert unasked == set(locks.PROFILES[profile].beside), "a package that nobody asks for"


@pytest.mark.parametrize("profile", locks.PROFILES)
def test_every_line_of_a_lock_has_a_hash_and_none_a_host(profile: str) -> None:
    text = (REQUIREMENTS / f"{profile}.txt").read_text("utf-8")
    names = re.findall(r"^([^\s#].*?) ?\\?$", text, re.MULTILINE)
    assert names and all(re.fullmatch(r"[\w.-]+==[\w.!+]+", name) for name in names)
    assert len(names) == len(licences.lock(profile))
    assert [name for name, one in licences.lock(profile).items() if not one.hashes] == []
    assert "://" not in text and "--index" not in text and "--find-links" not in text


@pytest.mark.parametrize("profile", [name for name in locks.PROFILES if "device" in name])
def test_a_device_s_lock_has_nothing_heavy(profile: str) -> None:
    assert HEAVY & set(licences.lock(profile)) == set()


def test_no_pin_is_left_over() -> None:
    assert set(constraints()) - set(licences.pins()) == set()


def test_development_is_what_make_installs() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    extras = re.findall(r"^EXTRAS := (\S+)$", makefile, re.MULTILINE)[0].split(",")
    assert set(extras) <= set(locks.PROFILES["development"].extras)
    profiles = re.findall(r"^PROFILES := (.+)$", makefile, re.MULTILINE)[0].split()
    assert profiles == list(locks.PROFILES)


def test_a_lock_is_read_with_who_asked_for_what() -> None:
    text = (
        "# made by\nml_dtypes==0.6.0 \\\n"
        f"    --hash=sha256:{'a' * 64} \\\n    --hash=sha256:{'b' * 64}\n    # via\n"
        "    #   edgegen\n    #   onnx-ir\nzipp==4.1.2 \\\n"
        f"    --hash=sha256:{'c' * 64}\n    # via importlib-metadata\n"
    )
    found = locks.read(text)
    assert found["ml-dtypes"] == locks.Locked("0.6.0", ("a" * 64, "b" * 64), ("edgegen", "onnx-ir"))
    assert found["zipp"] == locks.Locked("4.1.2", ("c" * 64,), ("importlib-metadata",))


def test_licences_are_of_the_locked_versions() -> None:
    said = json.loads(licences.SAID.read_text("utf-8"))
    assert {name: one["version"] for name, one in said.items()} == licences.pins(), "make licences"
    assert [name for name, one in said.items() if one["licence"] in ("", "not said")] == []


def test_the_page_of_licences_is_up_to_date() -> None:
    said = licences.PAGE.read_text("utf-8")
    assert said == licences.page(), "python scripts/licences.py"
    for folder in (ROOT / "edgegen" / "zoo").glob("*/card.json"):
        assert f"the zoo's `{folder.parent.name}`" in said


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({"license_expression": "MIT", "license": "x"}, "MIT"),
        ({"license": "OSI Approved :: Apache Software License"}, "Apache Software License"),
        (
            {"license": "Copyright\nall of it", "classifier": ["License :: OSI Approved :: ISC"]},
            "ISC",
        ),
        ({"license": "UNKNOWN", "classifier": ["Topic :: None"]}, "not said"),
    ],
)
def test_what_a_package_says_of_its_licence(metadata: dict[str, Any], licence: str) -> None:
    assert licences.of(metadata) == licence


@pytest.mark.parametrize("profile", ["device-openvino", "office"])
def test_a_bill_of_materials_has_all_with_hashes(profile: str) -> None:
    pytest.importorskip("cyclonedx", reason="the extra release: make venv")
    found = script("sbom").document(profile)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["version"] == project()["version"]
    parts = {one["name"]: one for one in found["components"]}
    lock = licences.lock(profile)
    assert set(lock) <= set(parts)
    for name, one in lock.items():
        (files,) = (r for r in parts[name]["externalReferences"] if r["type"] == "distribution")
        assert {h["content"] for h in files["hashes"]} == set(one.hashes)
        assert parts[name]["licenses"] and parts[name]["version"] == one.version
    assert parts["edgegen/zoo/cas-dm/weights.safetensors"]["hashes"][0]["alg"] == "SHA-256"
    assert not [name for name in parts if "-objects" in name], "what the wheel leaves out"
    refs = {one["bom-ref"] for one in found["components"]}
    needed = {ref for one in found["dependencies"] for ref in one.get("dependsOn", ())}
    assert needed == refs, "each is needed by somebody, and nothing else is"
    assert found == script("sbom").document(profile) and "timestamp" not in found["metadata"]
