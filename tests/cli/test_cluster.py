"""What docs/cluster.md says of several processes: torchrun's and an array's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers import sample

ONE = [sys.executable, "-m", "relact", "capture"]
RUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "relact", "capture"]
OPTIONS = ("--sites", "mlp.up", "--attribution", "--block", "4", "--device", "cpu")


def finish(*children):
    for child in children:
        _, err = child.communicate(timeout=180)
        assert child.returncode == 0, err


def begin(command, *arguments, **variables):
    filled = [str(argument) for argument in (*command, *arguments, *OPTIONS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        filled, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    )


@pytest.mark.slow
def test_processes_of_torchrun_and_of_an_array_write_what_one_writes(tmp_path, tiny_folder, prompt_file):
    one, torchrun, array = (tmp_path / f"{name}.zarr" for name in ("one", "torchrun", "array"))
    finish(begin(ONE, tiny_folder, prompt_file, one))
    finish(begin(RUN, tiny_folder, prompt_file, torchrun))
    ranks = [{"RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    finish(*(begin(ONE, tiny_folder, prompt_file, array, **rank) for rank in ranks))
    expected = sample.without_time(sample.files(one))
    for path in (torchrun, array):
        assert sample.without_time(sample.files(path)) == expected
