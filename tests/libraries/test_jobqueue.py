"""The workers of `dask-jobqueue` score what threads score; jobs are processes of this machine.

Run by `make libraries`. What docs/cluster.md does with SLURM is the same class with another way to submit.
"""

from __future__ import annotations

import shutil

from dask_jobqueue.local import LocalCluster
from helpers import sample

import relact
from relact.store import local


def test_jobs_score_what_threads_score(tiny_study, tmp_path):
    for name in ("threads", "jobs"):
        shutil.copytree(tiny_study.path, tmp_path / name)
        shutil.rmtree(tmp_path / name / "scores")
    relact.score(local.open(tmp_path / "threads"))
    with LocalCluster(cores=1, processes=1, memory="2GB", n_workers=2, interface=None) as cluster:
        relact.score(tmp_path / "jobs", scheduler=cluster.scheduler_address)
    threads, jobs = (sample.without_time(sample.files(tmp_path / name)) for name in ("threads", "jobs"))
    assert threads == jobs
