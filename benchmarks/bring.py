"""A folder of Stable Diffusion 1.5's shape to FP32 ONNX, peak memory and time.

    python -m benchmarks bring FOLDER [OUT]

FOLDER: a U-Net by itself or a whole pipeline; without one, a U-Net of 860 million random FP16
weights is made first (1.7 GB), by a process of its own that counts for nothing. What is measured is
a process, too, from reading the folder to the last file.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL_GB, GOAL_SECONDS = 1.5, 90
MAKE = """
import sys, torch
from diffusers import UNet2DConditionModel
with torch.device("meta"):
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8,
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
unet = unet.to(torch.float16).to_empty(device="cpu")
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    for name, weight in unet.named_parameters():
        bound = 0.6 * (3 / weight[0].numel()) ** 0.5 if weight.ndim > 1 else 0.0
        if bound:
            weight.uniform_(-bound, bound, generator=generator)
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
unet.eval().save_pretrained(sys.argv[1], safe_serialization=True)
"""


def made(folder: Path) -> Path:
    """A folder with the U-Net."""
    subprocess.run([sys.executable, "-c", MAKE, str(folder)], check=True)
    return folder


def write(folder: Path, out: Path) -> None:
    """Every graph of the folder; one line of JSON about what that took."""
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
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "files": {path.name: path.stat().st_size for path in sorted(out.iterdir())},
    }
    print(json.dumps(found))


def main() -> None:
    if sys.argv[1:2] == ["--write"]:
        write(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else made(Path(place) / "unet")
        out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(place) / "out"
        out.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--write", str(folder), str(out)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"goals: {GOAL_GB} GB, {GOAL_SECONDS} s")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
