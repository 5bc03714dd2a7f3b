"""In which ways the graph branch may speak; each is a switch.

All but soft tokens need no access to the inside of a language model.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class GraphBranchConfig(BaseModel):
    """Ways of the graph branch, where a request lets it speak at all.

    Source: method step 13.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    says_text: bool = True
    """Tendencies, own and borrowed, are said in words."""
    sends_soft: bool = True
    """Soft tokens go to the one language model they were trained for."""
    chooses: bool = True
    """Of several sampled answers the one of the user's kind is given back, not the first."""
    votes: bool = True
    """What the fitted state expects of the user is the prior of a vote, not a poll."""


EVERY_WAY = GraphBranchConfig()
