"""Measuring whether personalisation works."""
