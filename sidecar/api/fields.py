"""Fields that several resources share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

JobID = Annotated[int, Meta(description="job ID; may exceed 2^53, the largest integer that every JSON parser reads")]
F58 = Annotated[str, Meta(description="job ID as F58, such as ƒ2oUvBnNfh")]
Message = Annotated[str, Meta(description="the result in words, as flux-restful-api's clients expect it")]
Updated = Annotated[float, Meta(description="when the response was true, in Unix seconds")]

INVALID_SUBMIT = "Invalid submit request"
"""The Message of a submit that is refused, as flux-restful-api had it."""
