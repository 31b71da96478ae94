"""ONNX graphs, mutated: every class of harm that a file can hold which a native parser is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

Mutation = Callable[[ModelProto], object]
OPSET = helper.make_opsetid("", 20)


def before_all(model: ModelProto, *nodes: Any) -> None:
    """Nodes in front of those that are there."""
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])


def through(model: ModelProto, *nodes: Any, out: str = "changed") -> None:
    """What the last node made goes through these, which read "made" and write `out`."""
    last = model.graph.output[0].name
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == last:
                node.output[place] = "made"
        for place, name in enumerate(node.input):
            if name == last:
                node.input[place] = "made"
    model.graph.node.extend(nodes)
    model.graph.node.append(helper.make_node("Identity", [out], [last]))


def constant(model: ModelProto, name: str, value: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def external(place: str) -> Mutation:
    def mutate(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        kept_outside(tensor, place)

    return mutate


def kept_outside(tensor: TensorProto, place: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", place


def external_in(where: str) -> Mutation:
    """A tensor kept elsewhere, in a place that only a walk through everything finds."""

    def mutate(model: ModelProto) -> None:
        tensor = numpy_helper.from_array(np.zeros(1, np.float32), "t")
        kept_outside(tensor, "secret.bin")
        node = helper.make_node("Constant", [], ["outside"], value=tensor)
        if where == "attribute":
            before_all(model, node)
        elif where == "sub-graph":
            body = helper.make_graph(
                [node], "b", [], [helper.make_tensor_value_info("outside", 1, [1])]
            )
            chosen = helper.make_node(
                "If", [constant(model, "yes", True)], ["i"], then_branch=body, else_branch=body
            )
            before_all(model, chosen)
        elif where == "function":
            model.functions.append(
                helper.make_function("own", "F", [], ["outside"], [node], [OPSET])
            )
            model.opset_import.append(helper.make_opsetid("own", 1))
            before_all(model, helper.make_node("F", [], ["o"], domain="own"))
        elif where == "training":
            inner = helper.make_graph([node], "b", [], [])
            model.training_info.add().initialization.CopyFrom(inner)
        elif where == "sparse":
            sparse = model.graph.sparse_initializer.add()
            sparse.values.CopyFrom(tensor)
            sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))
            sparse.dims.append(4)

    return mutate


def chained(count: int, width: int = 1) -> Mutation:
    """Functions that each call the next, `width` times."""

    def mutate(model: ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("own", 1))
        for k in range(count):
            if k + 1 == count:
                nodes = [helper.make_node("Identity", ["a"], ["b"])]
            else:
                nodes = [
                    helper.make_node(
                        f"F{k + 1}", [f"v{w}" if w else "a"], [f"v{w + 1}"], domain="own"
                    )
                    for w in range(width)
                ]
                nodes.append(helper.make_node("Identity", [f"v{width}"], ["b"]))
            opsets = [OPSET, helper.make_opsetid("own", 1)]
            model.functions.append(
                helper.make_function("own", f"F{k}", ["a"], ["b"], nodes, opsets)
            )
        through(model, helper.make_node("F0", ["made"], ["changed"], domain="own"))

    return mutate


def looped(kind: str) -> Mutation:
    def mutate(model: ModelProto) -> None:
        value = helper.make_tensor_value_info
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["c"], ["d"]),
                helper.make_node("Add", ["s", "s"], ["r"]),
            ],
            "body",
            [value("i", 7, []), value("c", 9, []), value("s", 1, None)],
            [value("d", 9, []), value("r", 1, None)],
        )
        inputs = [constant(model, "count", np.int64(2**60)), constant(model, "go", True), "made"]
        loop = helper.make_node("Loop", inputs, ["changed"], body=body)
        if kind == "plain":
            through(model, loop)
            return
        inner = helper.make_graph([loop], "inner", [], [value("changed", 1, None)])
        through(
            model,
            helper.make_node(
                "If",
                [constant(model, "yes", True)],
                ["changed"],
                then_branch=inner,
                else_branch=inner,
            ),
        )

    return mutate


def operator(name: str, domain: str = "", **attributes: Any) -> Mutation:
    def mutate(model: ModelProto) -> None:
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))
        through(model, helper.make_node(name, ["made"], ["changed"], domain=domain, **attributes))

    return mutate


def deep(levels: int) -> Mutation:
    def mutate(model: ModelProto) -> None:
        result = [helper.make_tensor_value_info("r", 1, None)]
        yes = constant(model, "yes", True)
        inner = leaf = helper.make_graph(
            [helper.make_node("Identity", ["made"], ["r"])], "g", [], result
        )
        for _ in range(levels):
            node = helper.make_node("If", [yes], ["r"], then_branch=inner, else_branch=leaf)
            inner = helper.make_graph([node], "g", [], result)
        through(
            model,
            helper.make_node("If", [yes], ["changed"], then_branch=inner, else_branch=leaf),
        )

    return mutate


def enormous(how: str) -> Mutation:
    """More memory than there is, by a few bytes of graph."""

    def mutate(model: ModelProto) -> None:
        rows = 1536 if how == "six gigabytes" else 1 << 20
        size = constant(model, "size", np.array([rows, 1 << 20], np.int64))
        if how != "tiled":
            node = helper.make_node("ConstantOfShape", [size], ["big"])
            through(
                model,
                node,
                helper.make_node("ReduceMax", ["big"], ["m"], keepdims=0),
                helper.make_node("Add", ["made", "m"], ["changed"]),
            )
            return
        repeats = constant(model, "repeats", np.array([1, 1, 1 << 15, 1 << 15], np.int64))
        through(
            model,
            helper.make_node("Tile", ["made", repeats], ["big"]),
            helper.make_node("ReduceMax", ["big"], ["m"], keepdims=0),
            helper.make_node("Add", ["made", "m"], ["changed"]),
        )

    return mutate


def both(first: Mutation, second: Mutation) -> Mutation:
    def mutate(model: ModelProto) -> None:
        first(model)
        second(model)

    return mutate


def tensor(change: Callable[[TensorProto], object]) -> Mutation:
    return lambda model: change(max(model.graph.initializer, key=lambda t: len(t.raw_data)))


def floats(value: float) -> Mutation:
    """That value in all that is float32."""

    def mutate(model: ModelProto) -> None:
        for one in model.graph.initializer:
            if one.data_type == TensorProto.FLOAT and one.raw_data:
                spoilt = np.full(len(one.raw_data) // 4, value, np.float32)
                one.raw_data = spoilt.tobytes()

    return mutate


def output(shape: list[Any]) -> Mutation:
    def mutate(model: ModelProto) -> None:
        target = constant(model, "target", np.array(shape, np.int64))
        through(model, helper.make_node("Reshape", ["made", target], ["changed"]))

    return mutate


MUTATIONS: dict[str, Mutation] = {
    "3,000 chained functions": chained(3000),
    "100 chained functions": chained(100),
    "functions that multiply": chained(20, 10),
    "a function that calls itself": both(
        chained(1),
        lambda m: (
            m.functions[0].node[0].CopyFrom(helper.make_node("F0", ["a"], ["b"], domain="own"))
        ),
    ),
    "a function twice": both(chained(1), lambda m: m.functions.append(m.functions[0])),
    "a function named as an operator": lambda m: m.functions.append(
        helper.make_function(
            "", "Conv", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], [OPSET]
        )
    ),
    "a loop of 2^60": looped("plain"),
    "a loop within a choice": looped("within"),
    "graphs within graphs": deep(9),
    "graphs within graphs, deeper": deep(25),
    "numbers of its own": operator("RandomNormalLike"),
    "an operator of nobody": operator("Evil", "evil"),
    "Python": operator("PythonOp", "com.microsoft"),
    "a compiled blob within": operator(
        "EPContext", "com.microsoft", embed_mode=0, ep_cache_context="../../x.engine"
    ),
    "a blob within, embedded": operator(
        "EPContext", "com.microsoft", embed_mode=1, ep_cache_context="engine"
    ),
    "an operator that is not": operator("NoSuchOperator"),
    "weights above the folder": external("../secret.bin"),
    "weights at the root": external("/etc/passwd"),
    "weights by a name with a null": external("a\0b"),
    "weights behind a backslash": external("\\\\server\\secret"),
    "weights beside": external("weights.bin"),
    "weights nowhere": external(""),
    "an attribute kept elsewhere": external_in("attribute"),
    "a sub-graph's tensor kept elsewhere": external_in("sub-graph"),
    "a function's tensor kept elsewhere": external_in("function"),
    "a training's tensor kept elsewhere": external_in("training"),
    "a sparse tensor kept elsewhere": external_in("sparse"),
    "six gigabytes, filled": enormous("six gigabytes"),
    "a terabyte, filled": enormous("filled"),
    "a terabyte, tiled": enormous("tiled"),
    "fewer bytes than the shape": tensor(lambda t: setattr(t, "raw_data", t.raw_data[:-4])),
    "more bytes than the shape": tensor(lambda t: setattr(t, "raw_data", t.raw_data + b"1234")),
    "a shape below nothing": tensor(lambda t: t.dims.__setitem__(0, -1)),
    "a shape beyond numbers": tensor(lambda t: t.dims.__setitem__(0, 1 << 62)),
    "weights of another type": tensor(lambda t: setattr(t, "data_type", TensorProto.DOUBLE)),
    "weights of no type": tensor(lambda t: setattr(t, "data_type", 99)),
    "weights that are no numbers": floats(np.nan),
    "no nodes": lambda m: m.graph.ClearField("node"),
    "no graph": lambda m: m.ClearField("graph"),
    "no operator set": lambda m: m.ClearField("opset_import"),
    "an operator set of the future": lambda m: setattr(m.opset_import[0], "version", 999),
    "an operator set of the past": lambda m: setattr(m.opset_import[0], "version", 1),
    "no version": lambda m: m.ClearField("ir_version"),
    "a version of the future": lambda m: setattr(m, "ir_version", 99),
    "a circle": lambda m: m.graph.node[0].input.__setitem__(0, m.graph.output[0].name),
    "a tensor written twice": lambda m: m.graph.node[1].output.__setitem__(
        0, m.graph.node[0].output[0]
    ),
    "a tensor that nobody writes": lambda m: m.graph.node[0].input.__setitem__(0, "nobody"),
    "an input of another name": lambda m: setattr(m.graph.input[0], "name", "z"),
    "an input too many": lambda m: m.graph.input.append(
        helper.make_tensor_value_info("more", 1, [1])
    ),
    "an output of other size": output([-1, 3, 8, 32]),
    "an output of fewer axes": output([-1, 768]),
    "an output of other type": both(
        lambda m: through(m, helper.make_node("Cast", ["made"], ["changed"], to=11)),
        lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", 11),
    ),
    "no output": lambda m: m.graph.ClearField("output"),
    "an index beyond": lambda m: through(
        m,
        helper.make_node("Gather", ["made", constant(m, "at", np.int64(10**9))], ["g"], axis=0),
        helper.make_node("Add", ["made", "g"], ["changed"]),
    ),
    "a kernel larger than the image": lambda m: through(
        m,
        helper.make_node("MaxPool", ["made"], ["changed"], kernel_shape=[9999, 9999]),
    ),
    "fifty thousand nodes": lambda m: through(
        m,
        *(
            helper.make_node("Identity", [f"n{k}" if k else "made"], [f"n{k + 1}"])
            for k in range(50_001)
        ),
        out="n50001",
    ),
}
BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda d: b"",
    "text": lambda d: b"hello",
    "zeros": lambda d: bytes(1000),
    "half": lambda d: d[: len(d) // 2],
    "without its last byte": lambda d: d[:-1],
    "twice": lambda d: d + d,
    "ORT's own format": lambda d: b"\x20\x00\x00\x00ORTM" + d,
    "a pickle": lambda d: b"\x80\x04\x95" + d,
    "an engine": lambda d: b"ptrt" + d,
    "an unknown wire type": lambda d: d + b"\x0f",
    "a length beyond the end": lambda d: d + b"\x3a\xff\xff\xff\xff\x0f",
    "a number without an end": lambda d: d + b"\xff" * 20,
    "groups in groups": lambda d: b"\x0b" * 10_000,
}
