"""What a preset lets be chosen, in ``options:`` of its webhook. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Scalar = str | int | float | bool
Trait = Annotated[str, Field(min_length=1, max_length=100)]


class Options(BaseModel):
    """Of presets that need none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SurveyOptions(Options):
    """Which questions are which, by the reference or the id of the question."""

    nps: str | None = Field(default=None, description="The question with the 0 to 10 answer")
    csat: str | None = Field(default=None, description="The question of satisfaction")
    comment: str | None = Field(default=None, description="The question whose text goes with the score")


class CrmOptions(Options):
    """Which fields of an account are which traits."""

    fields: dict[str, Trait | None] = Field(
        default={}, description="Field to trait, beside the usual ones; null: leave this field alone"
    )
    values: dict[Trait, dict[str, Scalar | None]] = Field(
        default={}, description="Per trait: what a value there is called here, such as status: {Customer: active}"
    )
    constants: dict[Trait, Scalar] = Field(
        default={}, description="Traits that go with every change of `mrr` or of the whole account: currency: USD"
    )


class HubspotOptions(CrmOptions):
    account_property: str | None = Field(
        default=None, description="The company's property with the account's id; without it, HubSpot's own id is"
    )
