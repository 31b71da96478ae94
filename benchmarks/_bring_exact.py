"""Compare with the programs that models come from what must not differ: samplers, graphs and
adapters.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from edgegen.bring.brought import BringChoices, Brought, bring
from edgegen.bring.folder import FolderChoices
from edgegen.bring.lora import LoraFile
from edgegen.core.files import to_json
from edgegen.core.noise import noise
from edgegen.core.spec import Array
from edgegen.evidence import bench
from edgegen.export import onnx as onnx_files
from edgegen.export import runtime
from edgegen.workflows.generators import load_generator, torch_pipeline
from edgegen.workflows.source_choices import SourceChoices

SAMPLER_GOAL, GRAPH_GOAL, LORA_GOAL = 1e-5, 1e-4, 1e-6
PROMPTS = ("red apple", "blue car")
SEEDS = range(2)
WIDEST = 1024.0  # beyond any latent, and a power of two, so that dividing by it does not round
GUIDANCE = 3.0
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
VELOCITY = {"prediction_type": "v_prediction", "clip_sample": False, "steps_offset": 1}
SCHEDULERS: tuple[tuple[int, dict[str, Any]], ...] = (
    (8, {"_class_name": "DDPMScheduler"}),
    (8, {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}),
    (8, {"_class_name": "PNDMScheduler", "skip_prk_steps": True}),
    (8, {"_class_name": "EulerDiscreteScheduler"}),
    (8, {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, **LATENT}),
    (8, {"_class_name": "EulerAncestralDiscreteScheduler"}),
    (8, {"_class_name": "DPMSolverMultistepScheduler"}),
    (8, {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}),
    (8, {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}),
    (4, {"_class_name": "LCMScheduler"}),
)


def theirs(folder: Path, **more: Any) -> Any:
    """Return diffusers' own pipeline in full precision."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **more)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def replayed(scheduler: Any, brought: Brought) -> Iterator[None]:
    """Give each step of a scheduler the fresh noise that a bundle draws at that step."""
    module = sys.modules[type(scheduler).__module__]
    step, own, draw = scheduler.step, 0, getattr(module, "randn_tensor", None)

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal own
        made = step(*args, **kwargs)
        own += 1
        return made

    scheduler.step = counted
    if draw is not None:
        module.randn_tensor = lambda *_, **__: torch.from_numpy(  # type: ignore[attr-defined]
            noise(brought.noise, SEEDS, f"step{own}")
        )
    try:
        yield
    finally:
        scheduler.step = step
        if draw is not None:
            module.randn_tensor = draw  # type: ignore[attr-defined]


def samplers(folder: Path) -> list[dict[str, Any]]:
    """Compare the latents of two prompts with guidance, for each scheduler."""
    import diffusers

    pipeline, rows = theirs(folder), []
    exact = _exact(pipeline.unet)
    pipeline.unet.forward = lambda *args, **kwargs: (exact(*args, **kwargs),)
    with tempfile.TemporaryDirectory() as place:
        for steps, fields in SCHEDULERS:
            kind = getattr(diffusers, fields["_class_name"])
            known = set(kind().config)
            config = {**{k: v for k, v in VELOCITY.items() if k in known}, **fields}
            path = Path(place) / "scheduler_config.json"
            path.write_bytes(to_json(config))
            brought = bring(
                folder, BringChoices(FolderChoices(scheduler=path), steps, guidance=GUIDANCE)
            )
            pipeline.scheduler = kind.from_config(config)
            ours, wanted = _ours(brought), _theirs(pipeline, brought, steps)
            far = float(np.abs(ours - wanted).max())
            changed = [f"{k} {v}" for k, v in fields.items() if k != "_class_name"]
            rows.append(
                {
                    "scheduler": fields["_class_name"],
                    "fields": ", ".join(changed),
                    "steps": steps,
                    "max abs": f"{far:.1e}",
                    "goal": SAMPLER_GOAL,
                    "met": far <= SAMPLER_GOAL,
                }
            )
    return rows


def _contexts(brought: Brought) -> tuple[Array, Array]:
    """Return the contexts of the prompts, and of the empty prompt, computed by torch."""
    from edgegen.workflows.brought import load_brought

    choices = SourceChoices(PROMPTS, guidance=GUIDANCE)
    latent = load_brought(brought.root, choices).generator.latent
    rows = [latent.condition([0], label) for label in range(len(PROMPTS))]
    return tuple(  # type: ignore[return-value]
        np.concatenate([row[name] for row in rows]) for name in ("context", "null_context")
    )


def _exact(module: Any) -> Callable[..., torch.Tensor]:
    """Return the network in double precision, so that both loops call the same function, whatever
    batches they call it with.
    """
    network = module.double()

    def call(*args: Any, **kwargs: Any) -> torch.Tensor:
        wide = [a.double() if _is_float(a) else a for a in args]
        named = {name: a.double() if _is_float(a) else a for name, a in kwargs.items()}
        with torch.inference_mode():
            made = type(network).forward(network, *wide, **named)
        found: torch.Tensor = (made[0] if isinstance(made, tuple) else made).float()
        return found

    return call


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _ours(brought: Brought) -> Array:
    given, null = _contexts(brought)
    network = _exact(brought.graphs()["denoiser"].loaded())

    def denoiser(**inputs: Array) -> Array:
        return network(**{name: torch.from_numpy(v) for name, v in inputs.items()}).numpy()

    found: Array = brought.sampler(
        # images are clipped at 1, latents are not
        {"denoiser": denoiser, "decoder": lambda x: x / WIDEST},
        noise(brought.noise, SEEDS, "start"),
        {"context": given, "null_context": null},
        lambda stream: noise(brought.noise, SEEDS, stream),
    )
    return found * WIDEST


def _theirs(pipeline: Any, brought: Brought, steps: int) -> Array:
    with replayed(pipeline.scheduler, brought):
        made = pipeline(
            list(PROMPTS),
            latents=torch.from_numpy(noise(brought.noise, SEEDS, "start")),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            output_type="latent",
        ).images
    found: Array = made.numpy()
    return found


def graphs(folder: Path) -> list[dict[str, Any]]:
    """Compare each graph with torch on a trajectory's calls, on each runtime for CPUs."""
    generator = load_generator(folder, choices=SourceChoices(PROMPTS, guidance=GUIDANCE)).generator
    brought, rows = bring(folder), []
    calls: dict[str, list[Mapping[str, Any]]] = {
        graph: [asked[0], asked[-1]]
        for graph, asked in bench.record(torch_pipeline(generator), SEEDS).items()
    }
    text = brought.text()
    every = {**brought.graphs(), **({} if text is None else {"text": text})}
    if text is not None:
        tokens = np.arange(2 * brought.tokens, dtype=np.int64).reshape(2, -1)
        calls["text"] = [{"tokens": tokens}]
    with tempfile.TemporaryDirectory() as place:
        for name, graph in every.items():
            path = onnx_files.write(onnx_files.to_onnx(graph, name), Path(place) / f"{name}.onnx")
            torch_call = graph.executed()
            for host in ("onnxruntime", "openvino"):
                session, far = runtime(host).load(path, 1), 0.0
                for call in calls[name]:
                    wanted = torch_call(**call)
                    largest = np.abs(wanted).max()
                    far = max(far, float(np.abs(session(**call) - wanted).max() / largest))
                rows.append(
                    {
                        "graph": name,
                        "runtime": host,
                        "of the largest value": f"{far:.1e}",
                        "goal": GRAPH_GOAL,
                        "met": far <= GRAPH_GOAL,
                    }
                )
    return rows


def lora(folder: Path) -> list[dict[str, Any]]:
    """Compare a merged adapter of every linear layer and convolution of the U-Net, with each
    program's names.
    """
    from torch import nn

    pipeline, rank, scale = theirs(folder), 4, 0.8
    numbers = torch.Generator().manual_seed(0)
    updates = {
        name: (
            torch.randn(rank, *layer.weight.shape[1:], generator=numbers) / 16,
            torch.randn(len(layer.weight), rank, *(1,) * (layer.weight.ndim - 2), generator=numbers)
            / 16,
        )
        for name, layer in pipeline.unet.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }
    with tempfile.TemporaryDirectory() as place:
        files = _schemes(updates, Path(place))
        pipeline.load_lora_weights(files["diffusers"])
        pipeline.fuse_lora(components=["unet"], lora_scale=scale)
        pipeline.unload_lora_weights()
        wanted, rows = pipeline.unet.state_dict(), []
        before = bring(folder).networks["denoiser"].tensors
        for scheme, path in files.items():
            choices = BringChoices(loras=[LoraFile(path, scale)])
            found = bring(folder, choices).networks["denoiser"].tensors
            far = max(float((found[n].float() - wanted[n]).abs().max()) for n in wanted)
            moved = max(float((found[n].float() - before[n].float()).abs().max()) for n in wanted)
            rows.append(
                {
                    "names": scheme,
                    "layers": len(updates),
                    "largest update": f"{moved:.2f}",
                    "max abs": f"{far:.1e}",
                    "goal": LORA_GOAL,
                    "met": far <= LORA_GOAL,
                }
            )
    return rows


def _schemes(
    updates: Mapping[str, tuple[torch.Tensor, torch.Tensor]], place: Path
) -> dict[str, Path]:
    """Write the same numbers as three programs write them, and return the files."""
    named: dict[str, dict[str, torch.Tensor]] = {"diffusers": {}, "kohya": {}, "PEFT": {}}
    for layer, (down, up) in updates.items():
        flat = f"lora_unet_{layer.replace('.', '_')}"
        named["diffusers"] |= {
            f"unet.{layer}.lora_A.weight": down,
            f"unet.{layer}.lora_B.weight": up,
        }
        named["kohya"] |= {
            f"{flat}.lora_down.weight": down,
            f"{flat}.lora_up.weight": up,
            f"{flat}.alpha": torch.tensor(float(len(down))),
        }
        peft = f"base_model.model.{layer}"
        named["PEFT"] |= {f"{peft}.lora_A.weight": down, f"{peft}.lora_B.weight": up}
    files = {}
    for scheme, tensors in named.items():
        files[scheme] = place / f"{scheme}.safetensors"
        save_file({name: t.contiguous() for name, t in tensors.items()}, files[scheme])
    adapter = place / "adapter"
    adapter.mkdir()
    files["PEFT"] = files["PEFT"].rename(adapter / "adapter_model.safetensors").parent
    rank = len(next(iter(updates.values()))[0])
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
    (adapter / "adapter_config.json").write_bytes(to_json(config))
    return files
