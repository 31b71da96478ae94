"""The schemas 1 and 2 of manifest.json, as pydantic models; docs/manifest.schema.json is made from
them.
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
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0, le=FILE_BYTES)]


class Start(_Strict):
    """What the sampler starts from: noise and a label, which is all that schema 1 can say."""

    shape: Annotated[list[int], Field(description="of the noise, after the batch axis")]
    classes: Annotated[int, Field(description="of one-hot labels; 0 for a generator without")]


class TextEncoder(_Strict):
    """How a device encodes a prompt that the bundle does not hold. The sampler runs none of it."""

    graphs: Annotated[
        ByGraph,
        Field(
            description="ONNX file by the input of a condition that it makes of tokens",
            max_length=8,
        ),
    ]
    tokenizer: Annotated[list[str], Field(description="files of a CLIP tokenizer", max_length=8)]


class ConditionedStart(_Strict):
    """The same in schema 2."""

    shape: Annotated[list[int], Field(description="of the noise, after the batch axis")]
    conditions: Annotated[
        list[JsonObject],
        Field(description="kind and data of each: labels, prompts or constants", max_length=64),
    ]
    arrays: Annotated[
        str | None, Field(description="safetensors file with what they hold in numbers, by input")
    ] = None
    text: TextEncoder | None = None


def _is_conditioned(start: object) -> bool:
    return isinstance(start, ConditionedStart) or (
        isinstance(start, dict) and "conditions" in start
    )


class Built(_Strict):
    """One runtime's INT8 files."""

    version: Annotated[str, Field(description="of the package that built and judged them")]
    device: Annotated[str, Field(description="what executes them, such as CPU")]
    load: Annotated[ByGraph, Field(description="file that the runtime loads, by graph")]
    onnx: Annotated[ByGraph, Field(description="Q/DQ ONNX that it was built from, by graph")]
    until: Annotated[
        dict[str, float],
        Field(
            description="by graph: below this timestep the FP32 graph runs instead; none if it "
            "never does"
        ),
    ] = {}
    code: Annotated[
        bool, Field(description="executable code (engines): run only when signed or by request")
    ]


class Manifest(_Strict):
    """manifest.json of a bundle."""

    schema_version: Annotated[
        Literal[1, 2],
        BeforeValidator(whole),
        Field(description="the older one wherever it can say all"),
    ]
    sha256: Annotated[
        Sha256,
        Field(
            description="of this document without this entry: keys sorted, indent 2, ASCII, one "
            "newline"
        ),
    ]
    edgegen: Annotated[str, Field(description="version that made the bundle")]
    family: str
    source: Annotated[
        JsonObject,
        Field(description="name, sha256 of weights or of base and adapter, data, licence"),
    ]
    embeds_training_data: Annotated[
        Literal["none", "features", "pixels"], Field(description="what the model holds of photos")
    ]
    start: Annotated[
        Annotated[Start, Tag("schema 1")] | Annotated[ConditionedStart, Tag("schema 2")],
        Discriminator(lambda start: "schema 2" if _is_conditioned(start) else "schema 1"),
    ]
    sampler: Annotated[
        JsonObject, Field(description="kind and constants: the loop over the graphs as data")
    ]
    graphs: Annotated[ByGraph, Field(description="FP32 ONNX by graph")]
    scheme: Annotated[str, Field(description="the quantization that was really used, in words")]
    calibration: Annotated[
        JsonObject, Field(description="samples, seeds, coverage of timesteps, search of plans")
    ]
    runtimes: Annotated[dict[str, Built], Field(description="INT8 files by runtime")]
    evidence: Annotated[
        JsonObject,
        Field(description="parity, verdicts with seeds and the reference's sha256, machine"),
    ]
    files: Annotated[
        dict[str, File], Field(description="every file but manifest.json and model.sig, by path")
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
