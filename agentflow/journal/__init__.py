"""Memory: the one store of record. The protocol, its rows' SQL, and its stores (SQLite; memory as reference).

What belongs here: reading and writing facts, atomically. What does not: deciding, replaying, retrying, encoding values.
"""
