"""The command line: verbs, options, settings and what the terminal shows."""
