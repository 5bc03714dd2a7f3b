"""The numerical method, step by step: arrays in, arrays out.

Facets, residuals, profiles, the persona graph, alignment, what peers lend, completion, and the
fitted state that holds them. Knows no store, no files, no encoder and no language model.
"""
