"""The settings of a deployment as one object, each part from the module that it configures."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from copersona.answering.gate_config import GateConfig
from copersona.answering.graph_branch import GraphBranchConfig
from copersona.answering.prompting import PromptConfig
from copersona.answering.retrieval import RetrievalConfig
from copersona.answering.votes import VoteConfig
from copersona.method.fitted import MethodConfig
from copersona.reasoning.config import TrainingConfig
from copersona.softprompts.config import SoftPromptConfig


class CoPersonaConfig(BaseModel):
    """Settings of a deployment; the fields are explained at the classes they belong to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: MethodConfig = MethodConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    prompt: PromptConfig = PromptConfig()
    vote: VoteConfig = VoteConfig()
    graph: GraphBranchConfig = GraphBranchConfig()
    reasoning: TrainingConfig = TrainingConfig()
    soft_prompt: SoftPromptConfig = SoftPromptConfig()
    gate: GateConfig = GateConfig()
