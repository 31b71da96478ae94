"""edgegen: image generators for edge devices, quantized with a proven verdict.

    import edgegen
    generator = edgegen.load_generator("cas-dm")
    result = edgegen.export_bundle(generator, "out/a", edgegen.ExportSettings(fid_budget=0.02))
    images = edgegen.open_bundle("out/a").generate(seeds=range(64))

Importing this package changes nothing in the process: names are loaded when they are first asked
for, and `offline()` is what keeps libraries off the network. docs/python.md has the whole list.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .core.offline import offline as offline
    from .core.progress import Listener as Listener
    from .core.runtime import Pipeline as Pipeline
    from .core.verdict import Verdict as Verdict
    from .errors import EdgegenError as EdgegenError
    from .errors import GateFailed as GateFailed
    from .workflows.bench import BenchSettings as BenchSettings
    from .workflows.bench import bench_bundle as bench_bundle
    from .workflows.bench_report.run import bench_bundles as bench_bundles
    from .workflows.bench_report.run import remake_report as remake_report
    from .workflows.bench_report.settings import BenchReportSettings as BenchReportSettings
    from .workflows.bundles import Execution as Execution
    from .workflows.bundles import OpenedBundle as OpenedBundle
    from .workflows.bundles import open_bundle as open_bundle
    from .workflows.calibrate import CalibrateSettings as CalibrateSettings
    from .workflows.calibrate import calibrate_generator as calibrate_generator
    from .workflows.damage_map import DamageSettings as DamageSettings
    from .workflows.damage_map import map_damage as map_damage
    from .workflows.doctor import DoctorSettings as DoctorSettings
    from .workflows.doctor import examine_machine as examine_machine
    from .workflows.engines import EngineSettings as EngineSettings
    from .workflows.engines import build_engines as build_engines
    from .workflows.estimate import EstimateSettings as EstimateSettings
    from .workflows.estimate import estimate_training as estimate_training
    from .workflows.explain import ExplainSettings as ExplainSettings
    from .workflows.explain import explain_generator as explain_generator
    from .workflows.explain import list_layers as list_layers
    from .workflows.export.run import ExportResult as ExportResult
    from .workflows.export.run import ExportSettings as ExportSettings
    from .workflows.export.run import export_bundle as export_bundle
    from .workflows.finetune.adapt import finetune as finetune
    from .workflows.finetune.compare import compare_runs as compare_runs
    from .workflows.finetune.merge import merge_adapter as merge_adapter
    from .workflows.finetune.recover import recover as recover
    from .workflows.finetune.settings import FinetuneSettings as FinetuneSettings
    from .workflows.finetune.settings import RecoverSettings as RecoverSettings
    from .workflows.generate import GenerateSettings as GenerateSettings
    from .workflows.generate import generate_images as generate_images
    from .workflows.generators import LoadedGenerator as LoadedGenerator
    from .workflows.generators import load_generator as load_generator
    from .workflows.generators import zoo_models as zoo_models
    from .workflows.inspect import InspectResult as InspectResult
    from .workflows.inspect import inspect_source as inspect_source
    from .workflows.lint import lint_model as lint_model
    from .workflows.photos import PhotosSettings as PhotosSettings
    from .workflows.photos import check_photos as check_photos
    from .workflows.plans import read_plan as read_plan
    from .workflows.predict import predict_export as predict_export
    from .workflows.sampling_choices import SamplingChoices as SamplingChoices
    from .workflows.signing import sign_bundle as sign_bundle
    from .workflows.source_choices import SourceChoices as SourceChoices
    from .workflows.train import TrainSettings as TrainSettings
    from .workflows.train import train as train
    from .workflows.verify import VerifySettings as VerifySettings
    from .workflows.verify import verify_bundle as verify_bundle

# Maps a module to its public names. The imports above tell a type checker the same.
_NAMES = {
    "edgegen.core.offline": ("offline",),
    "edgegen.core.progress": ("Listener",),
    "edgegen.core.runtime": ("Pipeline",),
    "edgegen.core.verdict": ("Verdict",),
    "edgegen.errors": ("EdgegenError", "GateFailed"),
    "edgegen.workflows.bench": ("BenchSettings", "bench_bundle"),
    "edgegen.workflows.bench_report.run": ("bench_bundles", "remake_report"),
    "edgegen.workflows.bench_report.settings": ("BenchReportSettings",),
    "edgegen.workflows.bundles": ("Execution", "OpenedBundle", "open_bundle"),
    "edgegen.workflows.calibrate": ("CalibrateSettings", "calibrate_generator"),
    "edgegen.workflows.damage_map": ("DamageSettings", "map_damage"),
    "edgegen.workflows.doctor": ("DoctorSettings", "examine_machine"),
    "edgegen.workflows.engines": ("EngineSettings", "build_engines"),
    "edgegen.workflows.estimate": ("EstimateSettings", "estimate_training"),
    "edgegen.workflows.explain": ("ExplainSettings", "explain_generator", "list_layers"),
    "edgegen.workflows.export.run": ("ExportResult", "ExportSettings", "export_bundle"),
    "edgegen.workflows.finetune.adapt": ("finetune",),
    "edgegen.workflows.finetune.compare": ("compare_runs",),
    "edgegen.workflows.finetune.merge": ("merge_adapter",),
    "edgegen.workflows.finetune.recover": ("recover",),
    "edgegen.workflows.finetune.settings": ("FinetuneSettings", "RecoverSettings"),
    "edgegen.workflows.generate": ("GenerateSettings", "generate_images"),
    "edgegen.workflows.generators": ("LoadedGenerator", "load_generator", "zoo_models"),
    "edgegen.workflows.inspect": ("InspectResult", "inspect_source"),
    "edgegen.workflows.lint": ("lint_model",),
    "edgegen.workflows.photos": ("PhotosSettings", "check_photos"),
    "edgegen.workflows.plans": ("read_plan",),
    "edgegen.workflows.predict": ("predict_export",),
    "edgegen.workflows.sampling_choices": ("SamplingChoices",),
    "edgegen.workflows.signing": ("sign_bundle",),
    "edgegen.workflows.source_choices": ("SourceChoices",),
    "edgegen.workflows.train": ("TrainSettings", "train"),
    "edgegen.workflows.verify": ("VerifySettings", "verify_bundle"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted([*_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for, and keep it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'edgegen' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
