"""The database of what users said and allow: one `Store`, and the parts it is made of.

SQLite or PostgreSQL behind SQLAlchemy. Knows nothing of facets, vectors' meaning or peers.
"""
