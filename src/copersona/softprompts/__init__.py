"""Soft prompts: a persona as a few vectors in the place of tokens, for a frozen language model.

Needs torch and a language model in this process (`copersona[local]`); everything else of CoPersona
works without it.
"""
