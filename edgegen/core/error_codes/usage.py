"""Codes of command lines, settings, configurations and the machine."""

from __future__ import annotations

Row = tuple[str, tuple[int, ...], str, str]

ROWS: tuple[Row, ...] = (
    (
        "E-AIRGAP",
        (5,),
        "A library tried to use the network.",
        "Run `edgegen doctor --airgap`, which names the library and what to remove.",
    ),
    (
        "E-BACKEND",
        (5,),
        "A runtime or a package is not installed, or does not work here.",
        "Install the extra that the message names, or choose another runtime.",
    ),
    (
        "E-BUDGET",
        (2,),
        "The budget of a verdict is not a share above 0.",
        "Write a share such as 2% or 0.02.",
    ),
    (
        "E-BUG",
        (1,),
        "An unexpected exception occurred, which is a mistake in edgegen.",
        "Run the command again with -vv and report the traceback.",
    ),
    (
        "E-COMPILE",
        (2,),
        "torch cannot compile the losses of this family.",
        "Leave --compile out.",
    ),
    (
        "E-CONFIG",
        (2,),
        "A field of a configuration has a wrong type or is out of range.",
        "Correct the field that the message names.",
    ),
    (
        "E-DEVICE",
        (2, 5),
        "The device to train on is unknown, or torch cannot use it here.",
        "Use cpu, or install the driver that the message names.",
    ),
    (
        "E-DOCTOR",
        (5,),
        "A part of this machine does not work.",
        "Read the line of `edgegen doctor` that names the fault.",
    ),
    (
        "E-EDIT",
        (2,),
        "An edit of an image is written wrongly, or names something that does not exist.",
        "Write S=REGIONS:STRENGTH with regions that the report page shows.",
    ),
    (
        "E-ENVVAR",
        (2,),
        "An environment variable EDGEGEN_... is unknown or has a wrong value.",
        "Correct its name or unset it.",
    ),
    (
        "E-EP-FALLBACK",
        (5,),
        "ONNX Runtime would run on the CPU although a GPU was requested.",
        "Install what its GPU provider needs, or choose the CPU explicitly.",
    ),
    (
        "E-EP-PARTIAL",
        (5,),
        "ONNX Runtime would compute some nodes on the CPU.",
        "Choose another runtime, or export again for this one.",
    ),
    (
        "E-FAMILY",
        (2,),
        "There is no family with this name.",
        "Use one of those that the message lists.",
    ),
    (
        "E-GATES",
        (4,),
        "A file of gates contains an unknown key, or a value that is not a limit.",
        "Correct the key that the message names; docs/guides/bench.md lists all keys.",
    ),
    (
        "E-GPU",
        (5,),
        "This machine has no NVIDIA GPU, or a GPU that is not supported.",
        "Run the command on the machine with the GPU, or choose a runtime for the CPU.",
    ),
    (
        "E-INIT",
        (2,),
        "A run needs the weights that it starts from.",
        "Name a run folder or a zoo model with --init.",
    ),
    (
        "E-INTERRUPTED",
        (129, 130, 143),
        "A signal stopped the work.",
        "Run the command again; a training continues with --resume.",
    ),
    (
        "E-LABEL",
        (2,),
        "The generator has no class with this number.",
        "Use a number smaller than the number of classes.",
    ),
    (
        "E-LAYER",
        (2,),
        "There is no layer with this name, or it does not run at this step.",
        "Choose a layer that `edgegen layers SOURCE` lists.",
    ),
    (
        "E-LOOKS",
        (2,),
        "A comparison cannot be planned with this number of image pairs.",
        "Allow more image pairs with --max-images.",
    ),
    (
        "E-MOVED",
        (2,),
        "An option of an earlier version has become a command of its own.",
        "Use the command that the message names.",
    ),
    (
        "E-OBJECTIVE",
        (2,),
        "The family has no objective with this name.",
        "Use one of those that the message lists.",
    ),
    (
        "E-OOM",
        (7,),
        "There is not enough memory.",
        "Use a smaller batch, or a machine with more memory.",
    ),
    (
        "E-PROCESSES",
        (1, 2),
        "The work cannot be divided evenly among the processes.",
        "Start a number of processes that divides the batch size.",
    ),
    (
        "E-PROMPT",
        (2, 4),
        "A prompt is not valid, or this generator cannot use it.",
        "Write one line of at most 2,000 characters, or use a prompt that the bundle contains.",
    ),
    (
        "E-RAM",
        (2,),
        "The memory allowed for an export is less than the least that it needs.",
        "Allow more memory, or use fewer threads.",
    ),
    (
        "E-RECIPE",
        (2,),
        "The family has no recipe with this name.",
        "Use one of those that the message lists.",
    ),
    (
        "E-REGIONS",
        (2, 4),
        "The regions of an image are written wrongly or do not fit it.",
        "Write a grid such as 3x3, or a mask PNG of the image's size.",
    ),
    (
        "E-RUNTIME",
        (2,),
        "There is no runtime with this name, or it cannot be used for this.",
        "Use one of those that the message lists.",
    ),
    (
        "E-SEED",
        (2,),
        "There are not enough seeds for this purpose.",
        "Ask for fewer seeds, or begin at a smaller seed.",
    ),
    (
        "E-SETTING",
        (2,),
        "The family's configuration has no field with this name.",
        "Use one of those that the message lists.",
    ),
    (
        "E-SIZE",
        (2,),
        "The generator cannot make images of this size.",
        "Use a size that the message names.",
    ),
    (
        "E-SOURCE",
        (2, 4),
        "The source is not a zoo name, run folder, bundle or other source that this command "
        "accepts.",
        "Name a source that the command accepts; `edgegen models` lists the zoo.",
    ),
    (
        "E-SPAN",
        (2,),
        "The run is too short for one of its objectives.",
        "Train on more images with --images.",
    ),
    (
        "E-STDOUT",
        (7,),
        "Standard output cannot be written, for example because the disk is full.",
        "The work itself is done; look at its files, or run a command that shows the result again.",
    ),
    (
        "E-TIME",
        (2,),
        "The time allowed for an export is less than the least that it needs.",
        "Allow more time, or use fewer runtimes or sampler steps.",
    ),
    (
        "E-USAGE",
        (2,),
        "The command line is not valid, or its options exclude each other.",
        "Read `edgegen VERB --help`.",
    ),
)
