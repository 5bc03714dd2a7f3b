"""CoPersona: personalise any LLM from a user's first interactions."""

__version__ = "0.1.0"
