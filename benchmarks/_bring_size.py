"""Export a folder of Stable Diffusion 1.5's shape to FP32 ONNX, and measure peak memory
and time.

A process of its own, which is not measured, first makes a pipeline of random FP16 weights (2.1 GB),
unless a folder is given: a U-Net alone or a whole pipeline. The measured process runs from reading
the folder to the last file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _full_size import NETWORKS
from _measure import said_by

from edgegen.machine.resident import peak_bytes

GOAL_GB, GOAL_SECONDS = 1.5, 90
MAKE = (
    NETWORKS
    + """
import json, sys
from pathlib import Path
from diffusers import PNDMScheduler

out = Path(sys.argv[1])
generator = torch.Generator().manual_seed(0)
for name, network in (("unet", unet), ("vae", vae), ("text_encoder", text)):
    network = network.to(torch.float16).to_empty(device="cpu")
    with torch.no_grad():
        for key, weight in network.named_parameters():
            bound = 0.6 * (3 / weight[0].numel()) ** 0.5 if weight.ndim > 1 else 0.0
            if bound:
                weight.uniform_(-bound, bound, generator=generator)
            else:
                weight.fill_(1.0 if key.endswith("weight") else 0.0)
    network.save_pretrained(out / name, safe_serialization=True)
PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear",
              beta_start=0.00085, beta_end=0.012).save_pretrained(out / "scheduler")
words = [chr(code) for code in range(33, 127)]
words += [f"{word}</w>" for word in words] + ["<|startoftext|>", "<|endoftext|>"]
(out / "tokenizer").mkdir()
(out / "tokenizer" / "vocab.json").write_text(json.dumps({w: n for n, w in enumerate(words)}))
(out / "tokenizer" / "merges.txt").write_text("#version: 0.2\\n")
(out / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
         "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"],
         "tokenizer": ["transformers", "CLIPTokenizer"],
         "scheduler": ["diffusers", "PNDMScheduler"]}
(out / "model_index.json").write_text(json.dumps(index))
"""
)


def made(folder: Path) -> Path:
    """Make a folder with random weights and return it."""
    subprocess.run([sys.executable, "-c", MAKE, str(folder)], check=True)
    return folder


def write(folder: Path, out: Path) -> None:
    """Write every graph of the folder, and print one line of JSON about the time and memory that it
    took.
    """
    from edgegen.bring.components import COMPONENTS, component
    from edgegen.bring.folder_files import FolderFiles
    from edgegen.bring.wrap import denoiser
    from edgegen.core.graph import Graph
    from edgegen.export import onnx as onnx_files

    start = time.monotonic()
    graphs: dict[str, Graph] = {}
    if (folder / "model_index.json").is_file():
        from edgegen.bring.brought import bring

        brought = bring(folder)
        graphs |= brought.graphs()
        if (text := brought.text()) is not None:
            graphs["text"] = text
    else:
        network = component(FolderFiles(folder), "", COMPONENTS["UNet2DConditionModel"])
        graphs["denoiser"] = denoiser(network, 77)
    for name, graph in graphs.items():
        onnx_files.write(onnx_files.to_onnx(graph, name), out / f"{name}.onnx")
    found = {
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "peak_gb": round(peak_bytes() / 1e9, 2),
        "files": {path.name: path.stat().st_size for path in sorted(out.iterdir())},
    }
    print(json.dumps(found))


def size(given: Path | None) -> list[dict[str, object]]:
    """Return one row of measurements."""
    with tempfile.TemporaryDirectory() as place:
        folder, out = given or made(Path(place) / "sd15"), Path(place) / "out"
        out.mkdir()
        found = json.loads(said_by(__file__, str(folder), str(out)))
    met = found["peak_gb"] <= GOAL_GB and found["seconds"] <= GOAL_SECONDS
    return [{**found, "goal": f"{GOAL_GB} GB, {GOAL_SECONDS} s", "met": met}]


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:3]))
