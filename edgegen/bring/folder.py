"""Read a diffusers folder: model_index.json and its components, or one component alone.

A component is recognized by its class; one that is not listed is refused in one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..core.files import JsonObject
from ..errors import InputError
from .components import COMPONENTS, Component, component
from .folder_files import CODE, FolderFiles
from .tokenizer_files import TOKENIZERS, TokenizerFiles, tokenizer_files

INDEX, SCHEDULER = "model_index.json", "scheduler_config.json"
SAFETY = "safety_checker"
BESIDE_SAFETY = "feature_extractor"
LICENCE_LINE = re.compile(r"^license:[ \t]*[\"']?([\w .:+-]{1,80}?)[\"']?[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class PipelineClass:
    """Describe what a pipeline of diffusers does beside its components.

    `guidance` is its default, 1 for none; `scheduler` is the class that it turns any scheduler
    into; `fixed` are scheduler fields that it sets.
    """

    guidance: float = 1.0
    scheduler: str | None = None
    fixed: JsonObject = field(default_factory=dict)


PIPELINES: Mapping[str, PipelineClass] = {
    "DDPMPipeline": PipelineClass(),
    "DDIMPipeline": PipelineClass(scheduler="DDIMScheduler"),
    "PNDMPipeline": PipelineClass(),
    "StableDiffusionPipeline": PipelineClass(
        guidance=7.5, fixed={"steps_offset": 1, "clip_sample": False}
    ),
    "LatentConsistencyModelPipeline": PipelineClass(guidance=8.5),
}


@dataclass(frozen=True)
class FolderChoices:
    """Hold what a user says about a folder.

    `variant` is that of the weight files, such as fp16; `scheduler` is a scheduler_config.json that
    replaces the folder's; `drop_safety_checker` leaves the checker out.
    """

    variant: str | None = None
    scheduler: Path | None = None
    drop_safety_checker: bool = False


@dataclass(frozen=True)
class BroughtFolder:
    """Hold what lies in a folder.

    `dropped` are components that were left out as requested; `licence` is as its README.md names
    it, and `licence_file` the name of a licence file, if there is one.
    """

    files: FolderFiles
    pipeline: PipelineClass
    networks: Mapping[str, Component]  # by role
    scheduler: JsonObject
    scheduler_path: Path
    tokenizer: TokenizerFiles | None
    dropped: tuple[str, ...]
    licence: str | None
    licence_file: str | None


def open_folder(root: Path, choices: FolderChoices) -> BroughtFolder:
    """Read a folder. Raises InputError, in one sentence, for anything that cannot be taken."""
    files = FolderFiles(root)
    if not root.is_dir():
        raise InputError(CODE, "there is no such folder", path=root)
    names = files.names()
    if INDEX in names:
        found = _pipeline(files, choices)
    elif "config.json" in names:
        found = _alone(files, choices)
    else:
        raise InputError(
            CODE, f"it holds neither {INDEX} nor config.json: it is no diffusers folder", path=root
        )
    return found


def _pipeline(files: FolderFiles, choices: FolderChoices) -> BroughtFolder:
    index = files.json(INDEX)
    kind = index.get("_class_name")
    pipeline = PIPELINES.get(kind) if isinstance(kind, str) else None
    if pipeline is None:
        raise InputError(
            CODE,
            f"the pipeline is {kind!r:.80}, which is not one of {', '.join(PIPELINES)}",
            path=files.path(INDEX),
        )
    listed = _listed(index, files.path(INDEX))
    dropped = _dropped(listed, choices, files.path(INDEX))
    networks: dict[str, Component] = {}
    tokenizer: TokenizerFiles | None = None
    for name, kind in listed.items():
        if name in (*dropped, "scheduler"):
            continue
        if kind in TOKENIZERS:
            tokenizer = tokenizer_files(files, name)
        elif kind in COMPONENTS and COMPONENTS[kind].role not in networks:
            role = COMPONENTS[kind].role
            networks[role] = component(files, name, COMPONENTS[kind], choices.variant)
        else:
            raise InputError(
                CODE, f"its {name} is a {kind!r:.80}, which is not taken", path=files.path(INDEX)
            )
    scheduler, path = _pipeline_scheduler(files, choices, listed.get("scheduler"))
    if pipeline.scheduler is not None:
        scheduler["_class_name"] = pipeline.scheduler
    return BroughtFolder(
        files,
        pipeline,
        networks,
        {**scheduler, **pipeline.fixed},
        path,
        tokenizer,
        dropped,
        *_licence(files),
    )


def _pipeline_scheduler(
    files: FolderFiles, choices: FolderChoices, listed: str | None
) -> tuple[JsonObject, Path]:
    """Return the scheduler that was named, or the folder's, whose class must be the one that the
    index lists.
    """
    if choices.scheduler is None and listed is None:
        raise InputError(CODE, "it has no scheduler", path=files.path(INDEX))
    scheduler, path = _scheduler(files, choices, f"scheduler/{SCHEDULER}")
    if choices.scheduler is None:
        said = scheduler.setdefault("_class_name", listed)
        if said != listed:
            raise InputError(
                CODE,
                f"it is a {said!r:.80}, and {INDEX} says {listed!r:.80}",
                path=path,
                hint="write one of them into both",
            )
    return scheduler, path


def _listed(index: JsonObject, path: Path) -> dict[str, str]:
    """Return component to class. Raises InputError for an entry in another form, or from a module
    of the folder's own.
    """
    found = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        if len(value) != 2 or not name.isidentifier():
            raise InputError(CODE, f"{name!r:.80} is no component", path=path)
        library, kind = value
        if kind is None:
            continue
        if library not in ("diffusers", "transformers", "stable_diffusion") or not isinstance(
            kind, str
        ):
            raise InputError(
                CODE,
                f"its {name} is code of its own ({library!r:.80}), which is never run",
                path=path,
            )
        found[name] = kind
    return found


def _dropped(listed: Mapping[str, str], choices: FolderChoices, path: Path) -> tuple[str, ...]:
    """Return the components that are left out: the safety checker, if that was requested, and what
    only serves it.

    Raises InputError for a safety checker that was not to be left out.
    """
    if SAFETY in listed and not choices.drop_safety_checker:
        raise InputError(
            CODE,
            "it has a safety checker, which no bundle can hold",
            path=path,
            hint="say that it is to be left out (--drop-safety-checker), and check images yourself",
        )
    return tuple(name for name in (SAFETY, BESIDE_SAFETY) if name in listed)


def _alone(files: FolderFiles, choices: FolderChoices) -> BroughtFolder:
    """Read one network alone, whose scheduler must be named or lie beside it."""
    kind = files.json("config.json").get("_class_name")
    if not isinstance(kind, str):
        raise InputError(
            CODE,
            "it names no class: this is no network of diffusers",
            path=files.path("config.json"),
        )
    known = COMPONENTS.get(kind)
    if known is None or known.role != "denoiser":
        raise InputError(
            CODE, f"it is a {kind!r:.80}, which draws no images", path=files.path("config.json")
        )
    if choices.scheduler is None and not files.holds(SCHEDULER):
        raise InputError(
            CODE,
            f"a {kind} by itself has no scheduler",
            path=files.root,
            hint=f"name one: --scheduler {SCHEDULER}",
        )
    scheduler, path = _scheduler(files, choices, SCHEDULER)
    network = component(files, "", known, choices.variant)
    return BroughtFolder(
        files, PipelineClass(), {known.role: network}, scheduler, path, None, (), *_licence(files)
    )


def _scheduler(files: FolderFiles, choices: FolderChoices, own: str) -> tuple[JsonObject, Path]:
    """Return the named scheduler file, or the folder's own."""
    if choices.scheduler is None:
        return files.json(own), files.path(own)
    other = FolderFiles(choices.scheduler.parent)
    found = other.json(choices.scheduler.name)
    files.sha256[f"given/{choices.scheduler.name}"] = other.sha256[choices.scheduler.name]
    return found, choices.scheduler


def _licence(files: FolderFiles) -> tuple[str | None, str | None]:
    """Return the licence in the front matter of README.md, and the name of a licence file."""
    names = files.names()
    file = next((name for name in names if name.upper().startswith(("LICENSE", "LICENCE"))), None)
    named = None
    if "README.md" in names:
        text = files.read("README.md").decode("utf-8", "replace")
        front = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
        line = LICENCE_LINE.search(front[1].replace("\r", "")) if front else None
        named = line[1] if line else None
    return named, file
