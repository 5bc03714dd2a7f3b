"""CoPersona: personalise any LLM from a user's first interactions."""

from copersona.errors import CoPersonaError
from copersona.pipeline import CoPersona, CoPersonaConfig
from copersona.records import (
    Consent,
    Context,
    Evidence,
    Interaction,
    Peer,
    Persona,
    Profile,
    Query,
)
from copersona.store import Store

__version__ = "0.1.0"
open = CoPersona.open

__all__ = [
    "CoPersona",
    "CoPersonaConfig",
    "CoPersonaError",
    "Consent",
    "Context",
    "Evidence",
    "Interaction",
    "Peer",
    "Persona",
    "Profile",
    "Query",
    "Store",
    "__version__",
    "open",
]
