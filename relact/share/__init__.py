"""Share stores: pack and unpack, publish and fetch, files of other tools."""

from __future__ import annotations

from relact.share.pack import pack
from relact.share.unpack import unpack

__all__ = ["pack", "unpack"]
