"""A software bill of materials in CycloneDX's JSON: what a profile installs, with hashes, licences
and who asked for what, edgegen's wheel and the files of the zoo in it.

    python scripts/sbom.py PROFILE OUT.json     PROFILE: a file of requirements/, without .txt

Everything is read from the lock file, requirements/licences.json and the checkout; the same commit
gives the same bytes. (needs the extra release)
"""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

import licences
import locks
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT = locks.ROOT
ZOO = ROOT / "edgegen" / "zoo"


def sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def package(name: str, version: str, licence: str) -> Component:
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        bom_ref=f"{name}=={version}",
        purl=PackageURL("pypi", name=name, version=version),
        licenses=[DisjunctiveLicense(name=licence)],
    )


def locked(name: str, one: locks.Locked, licence: str) -> Component:
    """Return a component with the hashes of all files that the index has of this version: pip takes
    one of them.
    """
    component = package(name, one.version, licence)
    component.external_references.add(
        ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION,
            url=XsUri(str(component.purl)),
            hashes=[sha256(digest) for digest in one.hashes],
        )
    )
    return component


def weights() -> list[Component]:
    """Return the zoo's files, which are in the wheel; folders without a card are not."""
    found = []
    cards = {path.parent: json.loads(path.read_text("utf-8")) for path in ZOO.glob("*/card.json")}
    for path in sorted(ZOO.glob("*/*.safetensors")):
        if path.parent not in cards:
            continue
        card = cards[path.parent]
        name = path.relative_to(ROOT).as_posix()
        found.append(
            Component(
                type=ComponentType.MACHINE_LEARNING_MODEL,
                name=name,
                bom_ref=name,
                hashes=[sha256(hashlib.sha256(path.read_bytes()).hexdigest())],
                licenses=[DisjunctiveLicense(name=card["licence"])],
            )
        )
    return found


def bill(profile: str) -> Bom:
    """Return the bill of edgegen with what the profile's lock file holds."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    said = json.loads(licences.SAID.read_text("utf-8"))
    lock = licences.lock(profile)
    edgegen = package("edgegen", settings["version"], settings["license"])
    edgegen.description = settings["description"]
    edgegen.properties.add(Property(name="edgegen:profile", value=profile))
    packages = {name: locked(name, one, said[name]["licence"]) for name, one in lock.items()}
    zoo = weights()
    bom = Bom(components=[*packages.values(), *zoo])
    bom.metadata.component = edgegen
    bom.register_dependency(edgegen, zoo)
    for name, one in lock.items():
        for parent in one.via or ("edgegen",):
            bom.register_dependency(packages.get(parent, edgegen), [packages[name]])
    return bom


def document(profile: str) -> dict[str, Any]:
    """Return the document without its time stamp, and with a serial number that follows from its
    content instead of a random one.
    """
    found: dict[str, Any] = json.loads(JsonV1Dot6(bill(profile)).output_as_string())
    del found["metadata"]["timestamp"], found["serialNumber"]
    whole = json.dumps(found, sort_keys=True)
    return {**found, "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, whole)}"}


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in locks.PROFILES:
        sys.exit(f"usage: sbom.py PROFILE OUT.json; profiles: {', '.join(locks.PROFILES)}")
    _out = Path(sys.argv[2])
    _out.parent.mkdir(parents=True, exist_ok=True)
    _out.write_text(json.dumps(document(sys.argv[1]), indent=1, sort_keys=True) + "\n", "utf-8")
    print(_out)
