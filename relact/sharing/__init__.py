"""Stores for others: packed, published, fetched, listed.

Order of reading: source (a store's files as they travel; recode: activations, compressed for the way) -> pack
(one archive or one folder of them) -> card (what is said about it) -> unpack (back to a store, all of it
checked) -> publish (push and pull) -> stream (a capture that is published as it grows) -> catalogue (which
stores there are).
"""
