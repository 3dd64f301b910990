"""One Zarr v3 hierarchy on disk: laid out, written so that a crash loses nothing, checked and read.

Order of reading: layout (blocks, shards and inner chunks, as integers) -> shards (their bytes) -> commits
(which blocks there are) -> blocks (one on its way to the disk) -> seal (checksums of everything else) ->
skeleton (a store but for its blocks) -> reading (what any store answers) -> locks (one writer at a time) ->
local (a store in a folder: made, opened, written) -> verify (every byte against its checksum).
"""
