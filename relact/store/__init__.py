"""One Zarr v3 hierarchy on disk: how it is laid out, written so that a crash loses nothing,
checked and read.
"""
