"""Adapter files that are no plain LoRA, do not fit or are of another base: what is refused, and in
which words.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from adapters import master, run, shaken
from adapting import PEFT
from safetensors.torch import load_file, save_file

from edgegen.errors import InputError, TrustError
from edgegen.training import digests
from edgegen.training import run as runs
from edgegen.training.adapt import site
from edgegen.training.adapt.files import CONFIG, TENSORS, Adapter, Lora

pytestmark = [PEFT, pytest.mark.slow]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shaken("cas-dm").adapter("ab" * 32).write(tmp_path / "adapter")
    return tmp_path / "adapter"


def config(folder: Path, **change: object) -> None:
    data = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**data, **change}))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"target_modules": "(.*)*X$"}, "target_modules"),
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"r": 0}, "rank 1 or more"),
        ({"r": float("nan")}, "adapter_config.json"),
        ({"peft_type": "IA3"}, "got IA3"),
        ({"auto_mapping": {"parent_library": "subprocess"}}, "auto_mapping"),
        ({"rank_pattern": {"a": 2}}, "rank_pattern"),
        ({"not_yet_invented": {"a": 1}}, "not_yet_invented = {'a': 1} is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' is not supported"),
        ({"bias": "all"}, "bias = 'all' is not supported"),
    ],
)
def test_a_config_that_is_no_plain_lora(folder: Path, change: dict[str, object], said: str) -> None:
    config(folder, **change)
    with pytest.raises(InputError) as error:
        Adapter.read(folder)
    assert said in str(error.value)


def test_weights_that_are_missing_pickled_or_not_finite(folder: Path) -> None:
    tensors = load_file(folder / TENSORS)
    first = next(name for name in tensors if "lora_A" in name)
    save_file({**tensors, first: tensors[first] * float("nan")}, folder / TENSORS)
    with pytest.raises(InputError, match=r"error\[E-NONFINITE\] .*lora_A.*NaN"):
        Adapter.read(folder)
    save_file({"other": torch.zeros(2)}, folder / TENSORS)
    with pytest.raises(InputError, match=r"E-ADAPTER-KEYS.*of no PEFT adapter, such as other"):
        Adapter.read(folder)
    (folder / TENSORS).unlink()
    with pytest.raises(
        InputError, match=r"E-ADAPTER-WEIGHTS.*adapter_model\.safetensors is missing"
    ):
        Adapter.read(folder)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(TrustError, match="E-PICKLE"):
        Adapter.read(folder)


def test_tensors_that_do_not_fit_the_base(folder: Path) -> None:
    adapter, base = Adapter.read(folder), master("cas-dm")
    layer = adapter.lora.target_modules[0]
    for tensors, said in (
        (
            {k: v for k, v in adapter.tensors.items() if k != f"{layer}.lora_B.weight"},
            "lora_B.weight is missing",
        ),
        (
            {**adapter.tensors, "extra.weight": torch.zeros(1)},
            "1 tensors belong to no layer of the config, such as extra.weight",
        ),
        ({**adapter.tensors, f"{layer}.lora_A.weight": torch.zeros(3, 1)}, "is not of a weight"),
    ):
        with pytest.raises(InputError, match=f"E-ADAPTER-KEYS.*{said}"):
            Adapter(adapter.lora, tensors, None).merged(base, folder)
    with pytest.raises(InputError, match=f"the base has no layer {layer}"):
        adapter.merged({k: v for k, v in base.items() if not k.startswith(layer)}, folder)


def test_an_adapter_of_another_base_is_refused_by_name(tmp_path: Path) -> None:
    ours, theirs = (run("cas-dm", tmp_path / name, 4) for name in ("ours", "theirs"))
    other = shaken("cas-dm").adapter(site.digest(master("cas-dm", seed=5)))
    other.write(ours / "adapter")
    (ours / digests.FILE).unlink()
    with pytest.raises(
        TrustError, match=r"E-ADAPTER-BASE.*was trained on weights [0-9a-f]{12}\.\.\., the base has"
    ):
        runs.load(ours)
    data = bytearray((theirs / site.BASE).read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    data[8 + length] ^= 1
    (theirs / site.BASE).write_bytes(data)
    with pytest.raises(TrustError, match=r"E-HASH.*base\.safetensors"):
        runs.load(theirs)


def test_a_run_that_has_not_ended_has_no_adapter(tmp_path: Path) -> None:
    out = run("cas-dm", tmp_path / "run", 4)
    shutil.rmtree(out / "adapter")
    with pytest.raises(InputError, match=r"E-RUN-OPEN.*--resume"):
        runs.load(out)


def test_lora_of_rank_and_scaling() -> None:
    assert Lora(4, 8.0, ("a",)).scaling == 2.0
    with pytest.raises(ValueError, match="rank 1 or more"):
        Lora(0, 1.0, ())
