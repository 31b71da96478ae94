"""Codes of outputs, run folders, locks, disks, hashes and signatures."""

from __future__ import annotations

from .usage import Row

ROWS: tuple[Row, ...] = (
    (
        "E-CHECKPOINT",
        (4,),
        "A checkpoint is damaged, of an older edgegen, or gone.",
        "Put a copy back, or start the run anew.",
    ),
    (
        "E-DISK",
        (7,),
        "The operating system refuses to write.",
        "Choose another folder; the sentence has its reason.",
    ),
    (
        "E-DISK-FULL",
        (7,),
        "The disk is full.",
        "Free space and run it again: nothing half-written is left.",
    ),
    ("E-DISK-RO", (7,), "The disk can only be read.", "Choose another folder."),
    (
        "E-FILE",
        (4,),
        "The operating system does not let a file be used.",
        "Look at its name and its permissions.",
    ),
    (
        "E-HASH",
        (6,),
        "A file is not the one that was written.",
        "Copy it again; if it still differs, find out who changed it.",
    ),
    ("E-JSON", (4,), "A file is no usable JSON.", "Copy it again."),
    (
        "E-KEY",
        (4,),
        "A key cannot be read, or is of another kind.",
        "Use a PEM key on P-256, P-384 or P-521.",
    ),
    ("E-LOCK-FS", (7,), "The file system has no locks.", "Write to a local disk."),
    (
        "E-LOCKED",
        (8,),
        "Another process writes the same output.",
        "Wait for the one that the sentence names, or choose another name.",
    ),
    (
        "E-MANIFEST",
        (1, 6),
        "The manifest of a bundle does not fit the bundle.",
        "Copy the bundle again, or ask its maker.",
    ),
    (
        "E-NOT-FETCHED",
        (4,),
        "A pointer of Git LFS or git-annex lies in the place of a file.",
        "Run `git lfs pull`, or `git annex get`, where the folder was cloned.",
    ),
    (
        "E-OPEN-FILES",
        (7,),
        "The process may open no more files; a bundle holds each of its own open.",
        "Raise the limit, as by `ulimit -n 1024`.",
    ),
    ("E-OUT", (2,), "The output cannot have that name.", "Choose another; the sentence says why."),
    (
        "E-OUT-EXISTS",
        (2,),
        "Something is there already that is not to be replaced.",
        "Choose another name, or add --overwrite for an earlier result.",
    ),
    (
        "E-OUT-GONE",
        (7,),
        "The folder was removed while it was being written.",
        "Let nothing clean up there, and run it again.",
    ),
    (
        "E-PICKLE",
        (6,),
        "A file is pickle, which can run code.",
        "Convert it to safetensors on a machine you trust.",
    ),
    (
        "E-RESUME-MISMATCH",
        (2,),
        "A run is resumed with other settings than it began with.",
        "Leave the setting out, or start another run.",
    ),
    ("E-RUN", (4,), "run.json describes no run.", "Put a copy back."),
    (
        "E-RUN-GONE",
        (7,),
        "The run folder was removed or replaced while training.",
        "Start the run anew, where nothing cleans up.",
    ),
    ("E-RUN-OPEN", (4,), "The run has not ended yet.", "Finish it with --resume."),
    (
        "E-RUN-REJECTED",
        (4,),
        "The adapter of the run failed its gate.",
        "Read its looks.json; adapt anew.",
    ),
    ("E-SCHEMA", (2,), "A later edgegen wrote the file.", "Update edgegen here."),
    (
        "E-SIGNATURE",
        (6,),
        "The bundle is not signed by that key, as it is.",
        "Ask its maker for a signed copy, and look at the key.",
    ),
    ("E-ST-HEADER", (4,), "A file is no safetensors file, or cut.", "Copy it again."),
    (
        "E-WATCH",
        (4,),
        "looks.json is no usable record of looks.",
        "Put a copy back, or adapt anew.",
    ),
    (
        "E-KEY-REVOKED",
        (6,),
        "The key that signed the bundle was revoked or replaced.",
        "Ask its maker for one that is signed anew.",
    ),
    (
        "E-RELEASE",
        (6,),
        "The bundle is of an older release than the site takes.",
        "Install a newer one.",
    ),
    (
        "E-TMPDIR",
        (7,),
        "No private copy of a graph can be written.",
        "Free space in the folder of temporary files, or set TMPDIR.",
    ),
)
