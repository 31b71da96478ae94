"""No new code goes around the reader of files, the bytes of a bundle, or the door of graphs: read
off the source.
"""

from __future__ import annotations

import ast
from functools import cache

import pytest
from house import our_modules

# Who parses graphs with native code: each takes bytes of a GraphFile, or a file it just made.
GRAPHS = {
    "InferenceSession": {
        "edgegen.export.ort": "bytes of a GraphFile",
        "edgegen.calibrate.observe": "a model that this process holds",
        "edgegen.machine.providers": "its own tiny graph",
    },
    "read_model": {"edgegen.export.ov": "bytes of a GraphFile"},
    "import_model": {"edgegen.export.ov": "an entry of the cache, whose seal is checked"},
    "convert_model": {"edgegen.export.ov": "a file that was just written, when exporting"},
    "ReferenceEvaluator": {"edgegen.export.reference": "bytes of a GraphFile"},
    "deserialize_cuda_engine": {"edgegen.export.tensorrt": "an engine that is vouched for"},
    "load_from_string": {
        "edgegen.export.check": "after the checks",
        "edgegen.export.onnx": "bytes of an OnnxGraph, checked when it was brought",
        "edgegen.export.opset": "bytes of a GraphFile, after a child has tried it",
        "edgegen.export.reference": "bytes of a GraphFile",
        "edgegen.export.stand_ins": "bytes of a GraphFile",
        "edgegen.workflows.second_judges": "bytes whose hash is pinned",
    },
    "load_model": {},
    "load_model_from_string": {},
    "parse_from_file": {},
    "register_custom_ops_library": {},
    "add_extension": {},
}
# Who reads a file otherwise than through core.reader: its own, or the kernel's.
OWN = {
    "edgegen.core.reader",
    "edgegen.core.cpu",  # /proc
    "edgegen.core.files",  # writes
    "edgegen.core.answer_cache",  # appends to its own
    "edgegen.core.bundle_files",  # folders
    "edgegen.export.cache",  # writes its secret
    "edgegen.export.door",  # its child's answer
    "edgegen.export.trial",  # its parent's question
    "edgegen.export.engine",  # its child's folder
    "edgegen.export.packages",  # /proc
    "edgegen.workflows.bench_report.peers",  # writes what its child says
    "edgegen.export.tensorrt",  # /proc, and its builder's folder
    "edgegen.training.folder",  # a descriptor that does not wait, checked to be a file
    "edgegen.training.photos",  # the same
    "edgegen.training.record",  # appends to its own
    "edgegen.training.adapt.memory",  # /proc
}
READS = {"read_bytes", "read_text"}
PATHS = {"open", "safe_open", "load_file", "fromfile", "memmap", "loadtxt", "genfromtxt"}
WINGS = ("core", "export", "evidence", "workflows", "explain", "calibrate", "training")


@cache
def calls(source: str) -> list[tuple[str, ast.Call]]:
    """The last word of what is called, and the call."""
    return [
        (node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id, node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)
    ]


def around_the_door(source: str, module: str) -> list[str]:
    return [
        f"{module}:{node.lineno} {name}"
        for name, node in calls(source)
        if name in GRAPHS and module not in GRAPHS[name]
    ]


def around_the_reader(source: str, module: str) -> list[str]:
    """Files that are read by a path: a method of a path, or the built-in open and its like."""
    if module in OWN or module.split(".")[1:2] not in ([wing] for wing in WINGS):
        return []
    found = []
    for name, node in calls(source):
        method = isinstance(node.func, ast.Attribute)
        on_path = method and name in READS
        by_name = not method and name in (*PATHS, "ZipFile")
        stated = method and name in ("safe_open", "load_file", "fromfile", "memmap")
        image = ast.unparse(node.func) == "Image.open" and "BytesIO" not in ast.unparse(node)
        if on_path or by_name or stated or image:
            found.append(f"{module}:{node.lineno} {ast.unparse(node.func)}")
    return found


def test_no_graph_is_parsed_around_the_door() -> None:
    modules = our_modules()
    assert [w for m, p in modules.items() for w in around_the_door(p.read_text(), m)] == []
    for name, users in GRAPHS.items():
        for user in users:
            assert name in modules[user].read_text(), f"{user} no longer calls {name}"


def test_no_file_is_read_around_the_reader() -> None:
    modules = our_modules()
    assert [w for m, p in modules.items() for w in around_the_reader(p.read_text(), m)] == []


def test_bundles_are_opened_where_their_trust_is_decided() -> None:
    """Other code gets them from read_bundle; only an export vouches for what it just made."""
    opened = {
        module
        for module, path in our_modules().items()
        for name, node in calls(path.read_text())
        if name == "open" and ast.unparse(node.func) == "Bundle.open"
    }
    assert opened == {
        "edgegen.workflows.bundles",
        "edgegen.workflows.export.build",
        "edgegen.workflows.export.run",
    }


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("ort.InferenceSession(path)", True),
        ("core.read_model(str(path))", True),
        ("import onnx\nonnx.load_model(path)", True),
        ("options.register_custom_ops_library(path)", True),
        ("json.loads(text)", False),
    ],
)
def test_a_way_around_the_door_is_found(source: str, bad: bool) -> None:
    assert bool(around_the_door(source, "edgegen.workflows.new")) == bad


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("path.read_bytes()", True),
        ("Path(name).read_text('utf-8')", True),
        ("open(path, 'rb')", True),
        ("safe_open(path, 'numpy')", True),
        ("Image.open(path)", True),
        ("Image.open(io.BytesIO(data))", False),
        ("zipfile.ZipFile(stream)", False),
        ("read_bytes(path, 10)", False),
        ("archive.open(name)", False),
    ],
)
def test_a_way_around_the_reader_is_found(source: str, bad: bool) -> None:
    assert bool(around_the_reader(source, "edgegen.workflows.new")) == bad
