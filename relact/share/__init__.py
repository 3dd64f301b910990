"""Share stores: pack and unpack, publish and fetch, files of other tools."""

from __future__ import annotations

from relact.share.formats import export
from relact.share.pack import pack
from relact.share.publish import pull, push
from relact.share.unpack import unpack

__all__ = ["export", "pack", "pull", "push", "unpack"]
