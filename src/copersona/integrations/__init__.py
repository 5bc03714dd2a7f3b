"""CoPersona inside other people's libraries: each module needs one of them, and nothing needs it.

`contexts` is what they share: where the context of a request comes from.
"""
