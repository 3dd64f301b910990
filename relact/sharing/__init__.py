"""Stores for others: packed, published, fetched, listed."""
