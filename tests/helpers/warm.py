"""Imported by the server of `victims`: what it has done, no process that comes from it does again."""

from helpers import disk, victims

disk.do_not_wait()
victims.warm()
