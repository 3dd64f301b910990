"""The written format, version 1, in one place: `names` of what is stored, `allowed` for what users name,
`records` of how it was made.

Readers and writers take both from here; only the names of a seal are where it is made, `relact.store.seal`.
The same facts, for authors of other tools, are in docs/format.md.
"""

from relact.schema.allowed import *
from relact.schema.names import *
from relact.schema.records import *
