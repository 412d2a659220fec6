"""The two shapes of everything that enters or leaves a process."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXT = 200  # characters of a name or a label value
MAX_EXACT_INT = 2**53 - 1  # integers up to here survive every JSON reader

Rate = Annotated[float, Field(ge=0.0, lt=1.0, description="Probability of dropping a unit.")]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Seed = Annotated[int, Field(ge=0, le=MAX_EXACT_INT)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, hexadecimal.")]


class Record(BaseModel):
    """A frozen value whose unknown fields are refused: what users and workers send."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """A frozen value whose unknown fields are ignored: what the service answers."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
