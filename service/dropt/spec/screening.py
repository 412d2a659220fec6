"""What a screening of a deep model has found, as the service answers it."""

from typing import Literal

from pydantic import Field

from dropt.spec.record import Answer


class ScreenedGroup(Answer):
    """Groups of sites that were on or off together, and what came of it."""

    groups: tuple[str, ...]
    sites: tuple[str, ...]
    benefit: float = Field(
        description="Of being on, in units of the objective at the rung; positive is better."
    )
    standard_error: float | None = Field(description="Null where no run could be repeated.")
    decision: Literal["kept", "dropped"]
    reason: Literal["harmful", "no_effect", "useful", "among_the_best"]


class SearchedGroup(Answer):
    """One rate of the search that came after, and its sites."""

    group: str
    sites: tuple[str, ...]


class ScreeningRead(Answer):
    """Which groups are searched, and why the others have rate 0."""

    trials: int = Field(description="Of the budget of the arm.")
    runs: int = Field(description="Of the two-level design.")
    seeds: int = Field(description="Of each run.")
    scale: float = Field(description="Factor on the start rates.")
    units: tuple[ScreenedGroup, ...]
    searched: tuple[SearchedGroup, ...]
