"""Files to rows: tables, benchmark questions, chat exports, and the public data sets.

One outcome per row, columns guessed and said. Knows no store.
"""
