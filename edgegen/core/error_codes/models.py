"""Codes of weights, adapters, graphs, engines, bundles, plans and what is measured of them."""

from __future__ import annotations

from .usage import Row

ROWS: tuple[Row, ...] = (
    (
        "E-ADAPTER-BASE",
        (6,),
        "An adapter was trained on other weights than it is used with.",
        "Use it with the base that it was trained on.",
    ),
    (
        "E-ADAPTER-CONFIG",
        (4,),
        "The config of an adapter is not that of plain LoRA.",
        "Train it as plain LoRA, with lists of layer names.",
    ),
    (
        "E-ADAPTER-KEYS",
        (4,),
        "Tensors of an adapter are missing, unknown or of another shape.",
        "Use the adapter with its own base and config.",
    ),
    (
        "E-ADAPTER-WEIGHTS",
        (4,),
        "The tensors of an adapter are missing.",
        "Copy its adapter_model.safetensors, too.",
    ),
    (
        "E-BASE",
        (1,),
        "The library that rounds a base rounds it further than its format.",
        "Use --base fp32.",
    ),
    (
        "E-BASE-VIEW",
        (3,),
        "What trained on a rounded base is too far from what ships.",
        "Use --base fp32.",
    ),
    (
        "E-BUNDLE",
        (2, 4),
        "The folder is no bundle, or lacks what is asked of it.",
        "Name a folder that `edgegen export` wrote.",
    ),
    (
        "E-BUNDLE-RUNTIME",
        (2,),
        "The bundle has no files for that runtime.",
        "Use one that it has, or export for this one.",
    ),
    (
        "E-CACHE",
        (6,),
        "What this machine built before is damaged, or others can write there.",
        "Build it again, in a folder of your own.",
    ),
    (
        "E-CALIB",
        (4,),
        "A tensor held NaN, or nothing but 0, while calibrating.",
        "Use trained weights and inputs that the sampler gives.",
    ),
    (
        "E-ENGINE-UNTRUSTED",
        (6,),
        "Engines are code, and nobody vouches for these.",
        "Give the signer's --public-key, or build them here: `edgegen build`.",
    ),
    (
        "E-ENGINE-VERSION",
        (5,),
        "An engine was built by another version or for another GPU.",
        "Build it here: `edgegen build`.",
    ),
    (
        "E-EXPLAIN",
        (1, 2),
        "The features of this layer cannot be taken apart as asked.",
        "Choose another layer, or fewer regions.",
    ),
    (
        "E-EXPORT",
        (1,),
        "torch gave no ONNX program of a graph.",
        "Report it, with the versions of torch and onnx.",
    ),
    (
        "E-FEATURES",
        (2, 4, 5),
        "The feature network is unknown, or its weights cannot be used.",
        "Use the packaged network, or name its weight file.",
    ),
    (
        "E-FEEDS",
        (4,),
        "A file of calibration inputs does not fit the graph, or holds values that it never sees.",
        "Correct the array that the sentence names.",
    ),
    (
        "E-FID-REF",
        (2, 4),
        "Reference statistics are missing, damaged, or of another network.",
        "Use those of the run; `edgegen train` writes them.",
    ),
    (
        "E-FID-SCALE",
        (1, 4),
        "The distance of full precision is too near zero to compare with.",
        "Compare on more images.",
    ),
    (
        "E-GATE",
        (3,),
        "The INT8 images are not as good as was asked.",
        "Read the table; widen the budget, or keep more in full precision.",
    ),
    (
        "E-KEYS",
        (4,),
        "Tensors are missing, unknown or of another shape.",
        "Use weights of this very generator.",
    ),
    (
        "E-LINT",
        (1, 3),
        "A node that a runtime refuses or computes wrongly.",
        "Change the node as the sentence says.",
    ),
    (
        "E-NONFINITE",
        (1, 3, 4),
        "NaN or infinite values in weights, losses, features or images.",
        "Use the last good weights; lower the rate when training.",
    ),
    (
        "E-ONNX-EXTERNAL",
        (4,),
        "An ONNX file keeps tensors in another file.",
        "Save it with its tensors inside.",
    ),
    (
        "E-ONNX-LOAD",
        (4,),
        "ONNX Runtime cannot load a graph.",
        "Export it again; `edgegen lint` says more.",
    ),
    ("E-ONNX-PARSE", (4,), "A file is no usable ONNX graph.", "Copy or export it again."),
    (
        "E-OV-LOAD",
        (4,),
        "OpenVINO cannot load a graph.",
        "Export it again; `edgegen lint` says more.",
    ),
    (
        "E-PARITY",
        (3,),
        "A runtime computes other values than the reference does.",
        "Do not deploy it; report the runtime's version.",
    ),
    (
        "E-PLAN",
        (4,),
        "A plan cannot be read, or is of another generator.",
        "Use the plan of a bundle of this generator.",
    ),
    (
        "E-RECOVER",
        (1, 3),
        "A recovery found nothing to recover, or came no nearer.",
        "Try more --steps or another --rank.",
    ),
    (
        "E-SHAPE",
        (1,),
        "Two pipelines give images of different shapes.",
        "Compare a bundle with the generator it was made of.",
    ),
    (
        "E-TIMEOUT",
        (7,),
        "A child process did not answer in time.",
        "Run it again on a machine with less to do.",
    ),
    (
        "E-TRT-AXIS",
        (4,),
        "A graph has an axis that TensorRT needs fixed.",
        "Export it for this runtime.",
    ),
    (
        "E-TRT-BUILD",
        (4,),
        "TensorRT builds no engine of a graph.",
        "Read the node in the sentence; `edgegen lint` says more.",
    ),
    (
        "E-TRT-PARSE",
        (4,),
        "TensorRT cannot read a graph.",
        "Read the node in the sentence; `edgegen lint` says more.",
    ),
    (
        "E-TRT-RUN",
        (1,),
        "TensorRT could not execute an engine.",
        "Build it again: `edgegen build`.",
    ),
    ("E-WEIGHTS", (4,), "A file of weights cannot be read.", "Look at its name and permissions."),
)
