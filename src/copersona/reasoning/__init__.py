"""Graph reasoning: a learnt correction to completion, by attention over peers and facets.

Needs torch (`copersona[train]`); everything else of CoPersona works without it.
"""
