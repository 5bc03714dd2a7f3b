"""From one user and one request to a context: candidates, ranking, words, votes, prompts.

Reads a fitted state and a store under the consent of the moment; keeps nothing.
"""
