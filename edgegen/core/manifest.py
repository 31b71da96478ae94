"""Define schemas 1 and 2 of manifest.json as pydantic models. docs/manifest.schema.json is made
from them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)

from .files import JsonObject


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def whole(value: object) -> object:
    """Return the value if it is an integer. ValueError for 1.0 and true, although they equal 1."""
    if type(value) is not int:
        raise ValueError("it must be an integer")
    return value


FILE_BYTES = 4 << 30  # largest file of a bundle
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
ByGraph = dict[str, str]


class File(_Strict):
    """Name the content of one file of the bundle."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0, le=FILE_BYTES)]


class Start(_Strict):
    """Describe what the sampler starts from in schema 1: noise, and a one-hot label if there are
    classes.
    """

    shape: Annotated[
        list[int], Field(description="The shape of the noise, without the batch axis.")
    ]
    classes: Annotated[
        int,
        Field(description="The number of classes of the label; 0 for a generator without labels."),
    ]


class TextEncoder(_Strict):
    """Describe how a device encodes a prompt that the bundle does not hold. The sampler itself
    runs none of these graphs.
    """

    graphs: Annotated[
        ByGraph,
        Field(
            description="The ONNX file that makes an input of the prompts from tokens, by the "
            "name of this input.",
            max_length=8,
        ),
    ]
    tokenizer: Annotated[
        list[str], Field(description="The files of a CLIP tokenizer.", max_length=8)
    ]


class ConditionedStart(_Strict):
    """Describe what the sampler starts from in schema 2: noise, and a list of conditions."""

    shape: Annotated[
        list[int], Field(description="The shape of the noise, without the batch axis.")
    ]
    conditions: Annotated[
        list[JsonObject],
        Field(
            description="The kind of each condition (labels, prompts or constants) and its data.",
            max_length=64,
        ),
    ]
    arrays: Annotated[
        str | None,
        Field(
            description="The safetensors file that holds the numbers of the conditions, by the "
            "name of the input."
        ),
    ] = None
    text: TextEncoder | None = None


def _is_conditioned(start: object) -> bool:
    return isinstance(start, ConditionedStart) or (
        isinstance(start, dict) and "conditions" in start
    )


class Built(_Strict):
    """Describe the INT8 files of one runtime."""

    version: Annotated[
        str, Field(description="The version of the package that built and judged the files.")
    ]
    device: Annotated[str, Field(description="The device that executes the files, such as CPU.")]
    load: Annotated[ByGraph, Field(description="The file that the runtime loads, by graph.")]
    onnx: Annotated[
        ByGraph, Field(description="The Q/DQ ONNX file that it was built from, by graph.")
    ]
    until: Annotated[
        dict[str, float],
        Field(
            description="The timestep below which the FP32 graph runs instead, by graph. A graph "
            "that always runs in INT8 is not listed."
        ),
    ] = {}
    code: Annotated[
        bool,
        Field(
            description="Whether the files are executable code (engines). edgegen runs code only "
            "from a signed bundle or at the user's request."
        ),
    ]


class Manifest(_Strict):
    """Describe a bundle: this is the content of its manifest.json."""

    schema_version: Annotated[
        Literal[1, 2],
        BeforeValidator(whole),
        Field(description="The oldest schema that can express the bundle."),
    ]
    sha256: Annotated[
        Sha256,
        Field(
            description="The sha256 of this document without this entry, written with sorted "
            "keys, indent 2, ASCII, and one newline at the end."
        ),
    ]
    edgegen: Annotated[str, Field(description="The version of edgegen that made the bundle.")]
    family: Annotated[str, Field(description="The family of the generator.")]
    source: Annotated[
        JsonObject,
        Field(
            description="The name of the generator, the sha256 of its weights or of its base and "
            "adapter, its data and its licence."
        ),
    ]
    embeds_training_data: Annotated[
        Literal["none", "features", "pixels"],
        Field(description="What the model holds of the photos that it was trained on."),
    ]
    start: Annotated[
        Annotated[Start, Tag("schema 1")] | Annotated[ConditionedStart, Tag("schema 2")],
        Discriminator(lambda start: "schema 2" if _is_conditioned(start) else "schema 1"),
    ]
    sampler: Annotated[
        JsonObject,
        Field(
            description="The kind of the sampler and its constants: the loop over the graphs, as "
            "data."
        ),
    ]
    graphs: Annotated[ByGraph, Field(description="The FP32 ONNX file of each graph.")]
    scheme: Annotated[str, Field(description="The quantization that was really used, in words.")]
    calibration: Annotated[
        JsonObject,
        Field(
            description="The samples and seeds of the calibration, how they cover the timesteps, "
            "and what the search of plans tried."
        ),
    ]
    runtimes: Annotated[dict[str, Built], Field(description="The INT8 files of each runtime.")]
    evidence: Annotated[
        JsonObject,
        Field(
            description="The parity with torch, the verdicts with their seeds and the sha256 of "
            "the reference, and the machine."
        ),
    ]
    files: Annotated[
        dict[str, File],
        Field(
            description="Every file of the bundle except manifest.json and model.sig, by its path."
        ),
    ]

    @field_validator("start")
    @classmethod
    def _of_the_schema(
        cls, start: Start | ConditionedStart, info: ValidationInfo
    ) -> Start | ConditionedStart:
        schema = info.data.get("schema_version")
        if schema is not None and (schema == 1) != isinstance(start, Start):
            raise ValueError("schema 1 starts from classes, schema 2 from conditions")
        return start


def schema() -> JsonObject:
    """Return the JSON Schema of manifest.json, which docs/manifest.schema.json must equal."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Manifest.model_json_schema(),
    }
