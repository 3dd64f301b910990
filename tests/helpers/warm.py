"""Imported by the server of `victims`: what it has done, no process that comes from it does again."""

import distributed
import pyarrow.pandas_compat

from helpers import disk, victims

__all__ = ["distributed", "pyarrow"]  # imported by Dask and pandas when they are first asked

disk.do_not_wait()
victims.warm()
