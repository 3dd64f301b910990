"""What docs/cluster.md says of several processes: torchrun's and an array's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers import sample, victims

RUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "relact", "capture"]
OPTIONS = ("--sites", "mlp.up", "--attribution", "--block", "4", "--device", "cpu")


def forked(arguments, *environments):
    """The same command once for every environment, all at a time, each in a process of its own."""
    context = victims.context()
    children = [
        context.Process(target=victims.command, args=([*map(str, arguments), *OPTIONS], environment))
        for environment in environments
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(180)
    assert [child.exitcode for child in children] == [0] * len(environments)


@pytest.mark.slow
def test_processes_of_torchrun_and_of_an_array_write_what_one_writes(tmp_path, tiny_folder, prompt_file):
    one, torchrun, array = (tmp_path / f"{name}.zarr" for name in ("one", "torchrun", "array"))
    forked(("capture", tiny_folder, prompt_file, one), {})
    filled = [str(part) for part in (*RUN, tiny_folder, prompt_file, torchrun, *OPTIONS)]
    ran = subprocess.run(
        filled, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=180
    )
    assert ran.returncode == 0, ran.stderr
    ranks = [{"RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    forked(("capture", tiny_folder, prompt_file, array), *ranks)
    expected = sample.without_time(sample.files(one))
    for path in (torchrun, array):
        assert sample.without_time(sample.files(path)) == expected
