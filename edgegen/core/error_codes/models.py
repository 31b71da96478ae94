"""Codes of weights, adapters, graphs, engines, bundles, plans and their measurements."""

from __future__ import annotations

from .usage import Row

ROWS: tuple[Row, ...] = (
    (
        "E-ADAPTER-BASE",
        (6,),
        "An adapter is used with other weights than it was trained on.",
        "Use the adapter with the base that it was trained on.",
    ),
    (
        "E-ADAPTER-CONFIG",
        (4,),
        "The configuration of an adapter is not that of plain LoRA.",
        "Train it as plain LoRA, with lists of layer names.",
    ),
    (
        "E-ADAPTER-KEYS",
        (4,),
        "Some tensors of an adapter are missing, unknown or have a wrong shape.",
        "Use the adapter with its own base and its own configuration.",
    ),
    (
        "E-ADAPTER-WEIGHTS",
        (4,),
        "The file with an adapter's tensors is missing.",
        "Copy the adapter's adapter_model.safetensors too.",
    ),
    (
        "E-BASE",
        (1,),
        "The library that rounds a base changed it by more than its format does.",
        "Use --base fp32.",
    ),
    (
        "E-BASE-VIEW",
        (3,),
        "The images on the rounded base, which was used for training, differ too much from those "
        "of the generator that ships.",
        "Use --base fp32.",
    ),
    (
        "E-BENCH",
        (4,),
        "The folder contains no bench report, or a damaged one.",
        "Name a folder that `edgegen bench --report` wrote, or make the report again.",
    ),
    (
        "E-BRING",
        (4, 6),
        "A generator from another program, or one of its files, cannot be used as it is.",
        "Follow the message; docs/architecture.md names the part of edgegen that reads such "
        "generators.",
    ),
    (
        "E-BRING-LORA",
        (4,),
        "A LoRA file does not fit the generator that it is added to.",
        "Use the adapter with the base that it was trained on.",
    ),
    (
        "E-BUNDLE",
        (2, 4),
        "The folder is not a bundle, or lacks something that the command needs.",
        "Name a folder that `edgegen export` wrote.",
    ),
    (
        "E-BUNDLE-RUNTIME",
        (2,),
        "The bundle has no files for that runtime.",
        "Use a runtime that the bundle has, or export it for this one.",
    ),
    (
        "E-CACHE",
        (4, 6),
        "A file that this machine built earlier is damaged, or its folder is writable for other "
        "users.",
        "Build it again in a folder that only you can write to.",
    ),
    (
        "E-CALIB",
        (4,),
        "During calibration, a tensor contained NaN or only zeros.",
        "Use trained weights, and inputs as the sampler makes them.",
    ),
    (
        "E-ENGINE-UNTRUSTED",
        (6,),
        "Engines are code, and no checked signature covers these engines.",
        "Give the signer's key with --public-key, or build the engines on this machine with "
        "`edgegen build`.",
    ),
    (
        "E-ENGINE-VERSION",
        (5,),
        "An engine was built by another version of the runtime or for another GPU.",
        "Build it on this machine with `edgegen build`.",
    ),
    (
        "E-EXPLAIN",
        (1, 2),
        "The features of this layer cannot be split in the requested way.",
        "Choose another layer, or fewer regions.",
    ),
    (
        "E-EXPORT",
        (1,),
        "torch could not convert a graph to ONNX.",
        "Report the error together with your versions of torch and onnx.",
    ),
    (
        "E-FEATURES",
        (2, 4, 5),
        "The feature network is unknown, or its weights cannot be used.",
        "Use the network from an installed package, or name a weight file.",
    ),
    (
        "E-FEEDS",
        (4,),
        "A file of calibration inputs does not fit the graph, or contains values that the graph "
        "never receives.",
        "Correct the array that the message names.",
    ),
    (
        "E-FID-REF",
        (2, 4),
        "The reference statistics are missing, damaged, or made with another feature network.",
        "Use the statistics in the run folder, which `edgegen train` writes.",
    ),
    (
        "E-FID-SCALE",
        (1, 4),
        "The distance of the full-precision images to the reference is too close to zero to "
        "compare with.",
        "Compare on more images.",
    ),
    (
        "E-GATE",
        (3,),
        "The INT8 images are not as good as required.",
        "Read the table; then allow a larger budget, or keep more layers in full precision.",
    ),
    (
        "E-KEYS",
        (4,),
        "Some tensors are missing, unknown or have a wrong shape.",
        "Use the weights of exactly this generator.",
    ),
    (
        "E-LINT",
        (1, 3),
        "A runtime refuses a node of the graph or computes it wrongly.",
        "Change the node as the message says.",
    ),
    (
        "E-NO-INT8",
        (4,),
        "No part of a generator's graphs can run in INT8 on a runtime.",
        "Choose another runtime, or run the model in full precision.",
    ),
    (
        "E-NONFINITE",
        (1, 3, 4),
        "Weights, losses, features or images contain NaN or infinite values.",
        "Use the last good weights; in training, use a lower learning rate.",
    ),
    (
        "E-ONE-IMAGE",
        (4,),
        "A generator makes the same image from every seed in full precision, so its INT8 images "
        "have nothing to be compared with.",
        "Look at its images; train it for longer, or check that its file is the right one.",
    ),
    (
        "E-ONNX-EXTERNAL",
        (4, 6),
        "An ONNX file stores tensors in another file, or stores them wrongly in the file beside "
        "it.",
        "Save the ONNX file with its tensors inside.",
    ),
    (
        "E-ONNX-LOAD",
        (4,),
        "ONNX Runtime cannot load a graph.",
        "Export it again; `edgegen lint` gives details.",
    ),
    ("E-ONNX-PARSE", (4,), "A file is not a usable ONNX graph.", "Copy or export it again."),
    (
        "E-OV-LOAD",
        (4,),
        "OpenVINO cannot load a graph.",
        "Export it again; `edgegen lint` gives details.",
    ),
    (
        "E-PARITY",
        (3,),
        "A runtime computes values that differ from the reference.",
        "Do not deploy the bundle; report the error with the runtime's version.",
    ),
    (
        "E-PLAN",
        (4,),
        "A plan cannot be read, or was made for another generator.",
        "Use the plan from a bundle of this generator.",
    ),
    (
        "E-RECOVER",
        (1, 3),
        "A recovery found no INT8 error to reduce, or did not reduce it.",
        "Try more --steps or another --rank.",
    ),
    (
        "E-SHAPE",
        (1,),
        "Two pipelines make images of different shapes.",
        "Compare a bundle with the generator that it was made from.",
    ),
    (
        "E-TIMEOUT",
        (7,),
        "A child process did not answer in time.",
        "Run the command again when the machine is less busy.",
    ),
    (
        "E-TRT-AXIS",
        (4,),
        "A graph has an axis of variable length that TensorRT needs to be fixed.",
        "Export the generator for this runtime.",
    ),
    (
        "E-TRT-BUILD",
        (4,),
        "TensorRT cannot build an engine from a graph.",
        "Look at the node that the message names; `edgegen lint` gives details.",
    ),
    (
        "E-TRT-PARSE",
        (4,),
        "TensorRT cannot read a graph.",
        "Look at the node that the message names; `edgegen lint` gives details.",
    ),
    (
        "E-TRT-RUN",
        (1,),
        "TensorRT could not execute an engine.",
        "Build it again: `edgegen build`.",
    ),
    ("E-WEIGHTS", (4,), "A weight file cannot be read.", "Check its name and its permissions."),
    (
        "E-GRAPH-RUN",
        (4,),
        "A graph fails while it runs, or its output has another shape than it declares.",
        "Export it again, or ask its maker.",
    ),
    (
        "E-IR-LIMIT",
        (4,),
        "An OpenVINO model contains more data than a graph needs.",
        "Export it again, or ask its maker.",
    ),
    (
        "E-IR-OP",
        (4,),
        "An OpenVINO model contains an operator that is not allowed.",
        "Export it again, or ask its maker.",
    ),
    ("E-IR-PARSE", (4,), "A file is not a usable OpenVINO model.", "Copy or export it again."),
    (
        "E-ONNX-LIMIT",
        (4,),
        "An ONNX graph contains or repeats more data than a graph needs.",
        "Export it again, or ask its maker.",
    ),
    (
        "E-ONNX-OP",
        (4,),
        "An ONNX graph contains an operator that is not allowed.",
        "Export it again, or ask its maker.",
    ),
    (
        "E-PARSER-CRASH",
        (4,),
        "A graph crashed the process that tried it.",
        "Do not use the graph; ask its maker.",
    ),
    (
        "E-TOKENIZER",
        (4,),
        "The tokenizer's files are not those of a CLIP tokenizer.",
        "Copy or export it again.",
    ),
)
