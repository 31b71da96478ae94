"""Codes of outputs, run folders, locks, disks, hashes and signatures."""

from __future__ import annotations

from .usage import Row

ROWS: tuple[Row, ...] = (
    (
        "E-CHECKPOINT",
        (4,),
        "A checkpoint is damaged, missing, or from an older edgegen.",
        "Restore a copy, or start the run again from the beginning.",
    ),
    (
        "E-DISK",
        (7,),
        "The operating system refuses to write.",
        "Choose another folder; the message gives the system's reason.",
    ),
    (
        "E-DISK-FULL",
        (7,),
        "The disk is full.",
        "Free some space and run the command again; no half-written output was left behind.",
    ),
    ("E-DISK-RO", (7,), "The disk is read-only.", "Choose another folder."),
    (
        "E-FILE",
        (4,),
        "The operating system refuses access to a file.",
        "Check its name and its permissions.",
    ),
    (
        "E-HASH",
        (6,),
        "A file has changed since it was written.",
        "Copy it again; if it is still different, find out who changed it.",
    ),
    (
        "E-JSON",
        (4,),
        "A file is not valid JSON, or not the JSON that is expected.",
        "Copy it again.",
    ),
    (
        "E-KEY",
        (4,),
        "A key cannot be read, or is of a kind that is not supported.",
        "Use a key in PEM format on the curve P-256, P-384 or P-521.",
    ),
    ("E-LOCK-FS", (7,), "The file system does not support locks.", "Write to a local disk."),
    (
        "E-LOCKED",
        (8,),
        "Another process is writing the same output.",
        "Wait for the process that the message names, or choose another name.",
    ),
    (
        "E-MANIFEST",
        (1, 6),
        "The manifest of a bundle does not match the bundle's files.",
        "Copy the bundle again, or ask its maker.",
    ),
    (
        "E-NOT-FETCHED",
        (4,),
        "Instead of a file there is only a pointer of Git LFS or git-annex.",
        "Run `git lfs pull` or `git annex get` in the folder's clone.",
    ),
    (
        "E-OPEN-FILES",
        (7,),
        "The process may not open any more files; a bundle keeps each of its files open.",
        "Raise the limit, for example with `ulimit -n 1024`.",
    ),
    (
        "E-OUT",
        (2,),
        "The output cannot have this name.",
        "Choose another name; the message says why.",
    ),
    (
        "E-OUT-EXISTS",
        (2,),
        "A file or folder of this name exists already and is not replaced.",
        "Choose another name, or add --overwrite for an earlier result.",
    ),
    (
        "E-OUT-GONE",
        (7,),
        "The folder was removed while it was being written.",
        "Make sure that no other program cleans up this folder, and run the command again.",
    ),
    (
        "E-PICKLE",
        (6,),
        "A file is in pickle format, which can run code when it is read.",
        "Convert it to safetensors on a machine you trust.",
    ),
    (
        "E-RESUME-MISMATCH",
        (2,),
        "The settings differ from those with which the run began.",
        "Leave the changed setting out, or start a new run.",
    ),
    ("E-RUN", (4,), "run.json does not describe a run.", "Restore a copy of it."),
    (
        "E-RUN-GONE",
        (7,),
        "The run folder was removed or replaced during training.",
        "Start the run again in a folder that no other program cleans up.",
    ),
    ("E-RUN-OPEN", (4,), "The run is not finished yet.", "Finish it with --resume."),
    (
        "E-RUN-REJECTED",
        (4,),
        "The adapter of the run failed its gate.",
        "Read its looks.json, and run the fine-tuning again.",
    ),
    ("E-SCHEMA", (2,), "A newer edgegen wrote the file.", "Update edgegen on this machine."),
    (
        "E-SIGNATURE",
        (6,),
        "The key given did not sign the bundle in its present state.",
        "Ask the bundle's maker for a signed copy, and check that the key is the right one.",
    ),
    ("E-ST-HEADER", (4,), "A file is not a safetensors file, or it was cut off.", "Copy it again."),
    (
        "E-WATCH",
        (4,),
        "looks.json is not a usable record of a fine-tuning's comparisons.",
        "Restore a copy, or run the fine-tuning again.",
    ),
    (
        "E-KEY-REVOKED",
        (6,),
        "The key that signed the bundle was revoked or replaced.",
        "Ask the bundle's maker for a copy with a new signature.",
    ),
    (
        "E-RELEASE",
        (6,),
        "The bundle's release is older than the site accepts.",
        "Install a newer bundle.",
    ),
    (
        "E-TMPDIR",
        (7,),
        "edgegen cannot write its private copy of a graph.",
        "Free some space in the folder for temporary files, or set TMPDIR to another folder.",
    ),
)
