"""Codes of command lines, settings, configurations and the machine."""

from __future__ import annotations

Row = tuple[str, tuple[int, ...], str, str]

ROWS: tuple[Row, ...] = (
    (
        "E-AIRGAP",
        (5,),
        "A library wants to reach the network.",
        "Run `edgegen doctor --airgap`; it names who, and what to remove.",
    ),
    (
        "E-BACKEND",
        (5,),
        "A runtime or a package is not installed, or does not work here.",
        "Install the extra that the sentence names, or choose another runtime.",
    ),
    ("E-BUDGET", (2,), "The budget of a verdict is no share above 0.", "Write 2% or 0.02."),
    (
        "E-BUG",
        (1,),
        "An exception that nobody expected: a mistake in edgegen.",
        "Run it again with -vv and report the traceback.",
    ),
    (
        "E-COMPILE",
        (2,),
        "torch cannot compile what this family's losses need.",
        "Leave --compile out.",
    ),
    (
        "E-CONFIG",
        (2,),
        "A field of a configuration has another type or range than it may.",
        "Correct the field that the sentence names.",
    ),
    (
        "E-DEVICE",
        (2, 5),
        "The device to train on is unknown, or torch cannot use it here.",
        "Use cpu, or install the driver that the sentence names.",
    ),
    (
        "E-DOCTOR",
        (5,),
        "A part of this machine does not work.",
        "Read the line of `edgegen doctor` that says so.",
    ),
    (
        "E-EDIT",
        (2,),
        "An edit of an image is written wrongly, or names what is not there.",
        "Write S=REGIONS:STRENGTH with the regions that the page shows.",
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
        "ONNX Runtime would compute on the CPU what was asked of a GPU.",
        "Install what its GPU provider needs, or choose the CPU by name.",
    ),
    (
        "E-EP-PARTIAL",
        (5,),
        "ONNX Runtime would compute some nodes on the CPU.",
        "Choose another runtime, or export for this one anew.",
    ),
    (
        "E-FAMILY",
        (2,),
        "There is no family of that name.",
        "Use one of those that the sentence lists.",
    ),
    (
        "E-GATES",
        (4,),
        "A file of gates has an unknown key, or a value that is no limit.",
        "Correct the key that the sentence names; docs/guides/bench.md lists them all.",
    ),
    (
        "E-GPU",
        (5,),
        "There is no NVIDIA GPU here, or it is not of a kind that is supported.",
        "Run it where the GPU is, or choose a runtime of the CPU.",
    ),
    (
        "E-INIT",
        (2,),
        "A run needs the weights that it starts from.",
        "Name them with --init, a run or a zoo name.",
    ),
    (
        "E-INTERRUPTED",
        (129, 130, 143),
        "A signal ended the work.",
        "Run it again; a training goes on with --resume.",
    ),
    (
        "E-LABEL",
        (2,),
        "The generator has no class of that number.",
        "Use a number below its count of classes.",
    ),
    (
        "E-LAYER",
        (2,),
        "There is no layer of that name, or it does not run at that step.",
        "Choose one of `edgegen layers SOURCE`.",
    ),
    (
        "E-LOOKS",
        (2,),
        "The looks of a comparison cannot be planned as asked.",
        "Ask for more image pairs: --max-images.",
    ),
    (
        "E-MOVED",
        (2,),
        "A flag of before has become a verb of its own.",
        "Type the command that the sentence names.",
    ),
    (
        "E-OBJECTIVE",
        (2,),
        "The family has no objective of that name.",
        "Use one of those that the sentence lists.",
    ),
    ("E-OOM", (7,), "There was not enough memory.", "Use a smaller batch, or a machine with more."),
    (
        "E-PROCESSES",
        (1, 2),
        "Several processes cannot share this work evenly.",
        "Start as many processes as divide the batch.",
    ),
    (
        "E-PROMPT",
        (2, 4),
        "A prompt is none, or this generator cannot take it.",
        "Write one line of at most 2,000 characters, or use a prompt that the bundle holds.",
    ),
    (
        "E-RECIPE",
        (2,),
        "The family has no recipe of that name.",
        "Use one of those that the sentence lists.",
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
        "There is no runtime of that name, or it has no such use.",
        "Use one of those that the sentence lists.",
    ),
    (
        "E-SEED",
        (2,),
        "There are not as many seeds for this purpose.",
        "Ask for fewer, or begin at a smaller one.",
    ),
    (
        "E-SETTING",
        (2,),
        "The family's configuration has no field of that name.",
        "Use one of those that the sentence lists.",
    ),
    (
        "E-SIZE",
        (2,),
        "The generator cannot draw images of that size.",
        "Use a size that the sentence names.",
    ),
    (
        "E-SOURCE",
        (2, 4),
        "What was named is no zoo name, run or bundle as wanted here.",
        "Name one; `edgegen models` lists the zoo.",
    ),
    ("E-SPAN", (2,), "The run is too short for one of its objectives.", "Train on more --images."),
    (
        "E-STDOUT",
        (7,),
        "What reads the output does not take it, such as a full disk.",
        "The work is done; look at its files, or run the verb that shows it again.",
    ),
    (
        "E-TIME",
        (2,),
        "The time that an export was given is not enough for the least that it has to do.",
        "Give more, or ask for fewer runtimes or sampler steps.",
    ),
    (
        "E-USAGE",
        (2,),
        "The command line cannot be read, or its flags exclude each other.",
        "Read `edgegen VERB --help`.",
    ),
)
