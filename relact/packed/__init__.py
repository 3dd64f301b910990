"""Read-only stores wherever they lie: a path or a URL, an archive or a folder, checked as they arrive.

Order of reading: urls (where a URL is opened: bytes by name) -> archive (the same of a zip file, read in
parts) -> names, metadata, chunks (what relact would have written, judged in that order; refusal: how it says
no) -> contents (all that the root's zarr.json promises) -> package (its objects, fetched and checked; cache:
kept on disk) -> objects (as zarr sees them) -> store (`open_store`: a path or a URL becomes a `Store`);
shortlist: the best neurons of every relation, ready to be shown.
"""
