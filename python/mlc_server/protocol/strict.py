"""What all request models share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class StrictModel(BaseModel):
    """No coercion, no NaN, immutable once validated. Unknown keys are told of by fields.py."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore", frozen=True)


def fault(field: str, problem: str) -> PydanticCustomError:
    """A failure of several fields together, told of one of them; parsing.explain reads `field`.

    `field` is relative to what is being validated; "" is that itself.
    """
    return PydanticCustomError("together", "{problem}", {"field": field, "problem": problem})
