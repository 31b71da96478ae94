"""The public surface: pinned, typed, found by many threads at once."""

from __future__ import annotations

import ast
import importlib

import pytest
from house import ROOT, SEAMS, python

import edgegen

PUBLIC = """
BenchReportSettings BenchSettings CalibrateSettings DamageSettings DoctorSettings EdgegenError
EngineSettings EstimateSettings Execution ExplainSettings ExportResult ExportSettings
FinetuneSettings GateFailed GenerateSettings InspectResult Listener LoadedGenerator OpenedBundle
PhotosSettings Pipeline RecoverSettings SamplingChoices SourceChoices TrainSettings Verdict
VerifySettings __version__ bench_bundle bench_bundles build_engines calibrate_generator check_photos
compare_runs estimate_training examine_machine explain_generator export_bundle finetune
generate_images inspect_source lint_model list_layers load_generator map_damage merge_adapter
offline open_bundle predict_export read_plan recover remake_report sign_bundle train verify_bundle
zoo_models
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


@pytest.mark.slow
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
