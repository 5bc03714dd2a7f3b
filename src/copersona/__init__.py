"""CoPersona: personalise any LLM from a user's first interactions.

The public names are here, each loaded when it is first asked for, so that a program that imports
the package – the command line above all – starts at once. Nothing else happens on import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from copersona.config import CoPersonaConfig
    from copersona.errors import CoPersonaError
    from copersona.pipeline import CoPersona
    from copersona.records import (
        Branches,
        Consent,
        Context,
        Evidence,
        Interaction,
        Peer,
        Persona,
        Profile,
        Query,
    )
    from copersona.storage.store import Store

    open = CoPersona.open

__version__ = "0.1.0"

__all__ = [
    "Branches",
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

_HOMES = {
    "CoPersona": "pipeline",
    "CoPersonaConfig": "config",
    "CoPersonaError": "errors",
    "Store": "storage.store",
}
"""The module of each public name; `records` where none is given."""


if not TYPE_CHECKING:  # a type checker that saw this would take any name to be there

    def __getattr__(name: str) -> Any:
        """Load a public name; it is an ordinary attribute from then on."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "open":
            value = __getattr__("CoPersona").open
        else:
            value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'records')}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return __all__
