"""What all sections of a configuration share: their base, and the types of their keys."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Mass = Annotated[float, Field(gt=0, le=1)]
Limit = Annotated[float, Field(gt=0, allow_inf_nan=True)]
Text = Annotated[str, Field(min_length=1)]
# Names of rewards and losses become metric names and parts of dotted `--set` paths.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
Tracker = Literal["tensorboard", "wandb"]
Schedule = Literal["constant", "linear", "cosine"]
Float = Literal["float32", "bfloat16"]
AxisSize = Annotated[int, Field(ge=-1)] | None


class Section(BaseModel):
    """What all sections share: frozen, exact types, finite numbers, no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class OpenSection(Section):
    """A section whose other keys belong to what it names: a data source, a reward function, a method."""

    model_config = ConfigDict(extra="allow")

    @property
    def options(self) -> dict[str, Any]:
        """The keys that the section itself does not know."""
        return dict(self.model_extra or {})
