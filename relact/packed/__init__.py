"""Read-only stores wherever they lie: a path or a URL, an archive or a folder,
every object checked as it arrives.
"""
