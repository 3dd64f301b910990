"""Read packed stores wherever they lie: `open` takes a path or a URL.

::

    places    a location -> bytes by name           (http, s3, hub, folder)
    archive   the same for the files inside a zip
    trust     what names, metadata and chunks may be
    package   the objects of one packed store, each checked as it arrives
    shared    a `Store` on top of them
"""

from __future__ import annotations

from relact.remote.package import Package, open_package
from relact.remote.places import is_url, place
from relact.remote.shared import SharedStore, is_packed, open

__all__ = ["Package", "SharedStore", "is_packed", "is_url", "open", "open_package", "place"]
