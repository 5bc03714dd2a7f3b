"""Encoders and language models, local and remote.

Texts to vectors and messages to text, behind two protocols. Knows no users.
"""
