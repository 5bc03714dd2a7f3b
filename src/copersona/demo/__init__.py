"""Invented people and what they wrote, for demonstrations and tests; see README.md beside it."""
