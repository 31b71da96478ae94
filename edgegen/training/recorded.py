"""The settings with which a run was started, read from its run.json."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from ..core.files import JsonObject, to_json
from ..errors import InputError
from .digests import RUN, description


@dataclass(frozen=True)
class Recorded:
    """The settings with which a run was started, so that it can be resumed without repeating them.

    None for a setting that run.json does not have.
    """

    family: str | None = None
    config: JsonObject | None = None
    recipe_name: str | None = None
    precision: Literal["bf16", "fp32"] | None = None
    images: int | None = None
    batch: int | None = None
    seed: int | None = None
    device: str | None = None
    compiled: bool | None = None
    only: str | None = None
    init: str | None = None
    threads: int | None = None
    fit: str | None = None
    background: str | None = None
    no_classes: bool | None = None
    follow_links: bool | None = None
    max_megapixels: int | None = None

    @property
    def choices(self) -> JsonObject:
        """The settings for its photos, by the names of settings."""
        return {
            "classes": not self.no_classes,
            "follow_links": bool(self.follow_links),
            "max_megapixels": self.max_megapixels,
        }

    @classmethod
    def of(cls, out: Path) -> Recorded:
        """Read the settings of the run in `out`, all None if there is no run.

        InputError if its run.json cannot be read.
        """
        path = out / RUN
        about = description(out) if path.is_file() else {}
        said = {**flat(about), "config": about.get("config")}
        places = {
            "recipe_name": "recipe.name",
            "precision": "recipe.precision",
            "images": "recipe.images",
            "batch": "recipe.batch",
            "fit": "data.fit",
            "background": "data.background",
            "no_classes": "data.no_classes",
            "follow_links": "data.follow_links",
            "max_megapixels": "data.max_megapixels",
        }
        values = {f.name: said.get(places.get(f.name, f.name)) for f in fields(cls)}
        try:
            return TypeAdapter(cls).validate_json(to_json(values), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(
                "E-RUN", f"not a run's description: {first['loc'][0]}: {first['msg']}", path=path
            ) from error


def flat(data: object, name: str = "") -> JsonObject:
    """Flatten nested data: {"recipe": {"batch": 64}} -> {"recipe.batch": 64}."""
    if not isinstance(data, dict):
        return {name: data}
    return {
        k: v
        for key, value in data.items()
        for k, v in flat(value, f"{name}.{key}" if name else key).items()
    }
