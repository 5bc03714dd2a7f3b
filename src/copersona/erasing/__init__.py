"""Taking a user out, and looking whether that was done.

The second look shares no code with what deletes.
"""
