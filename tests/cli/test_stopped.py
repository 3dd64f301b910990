"""A command that is told to stop says one line, whenever that is, and leaves a store that resumes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import deep, sample

from relact.store.verify import verify

# signals as a shell gives them to a command, though the tests may run where some are ignored, as under nohup
USUAL = (
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
)
COMMITTED = None  # instead of a delay: once the first block is
CODE = f"{USUAL}from relact.cli.entry import main; main()"


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def attends(child):
    """Whether Python is there, and the command begun: before that nobody can say anything."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGHUP - 1) & 1)


def told(child, number):
    """What a child says after a signal: its exit code and its lines on stderr but for those of progress.

    A command that has said what it made has ended, though Python may not have: nothing is left to be said.
    """
    child.send_signal(number)
    out, err = child.communicate(timeout=120)
    code = 0 if out and child.returncode == -number else child.returncode
    return code, [line for line in err.splitlines() if "/s" not in line]


@pytest.mark.parametrize("number", deep.rest([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], [signal.SIGINT]))
@pytest.mark.parametrize(
    "delays",
    [(0.0, 1.0, COMMITTED), pytest.param((0.05, 0.2, 0.5, 2.0, 4.0), marks=deep.only)],
    ids=["some", "more"],
)
def test_a_capture_that_is_told_to_stop_resumes_to_the_same_bytes(
    tmp_path, tiny_folder, prompt_file, relact, number, delays
):
    """Told so many seconds after the command has begun."""
    path, whole = tmp_path / "s.zarr", tmp_path / "whole.zarr"
    arguments = ("--sites", "all", "--block", 1, "--batch-tokens", 64)
    assert relact("capture", tiny_folder, prompt_file, whole, *arguments)[0] == 0
    stopped = 0
    for delay in delays:
        child = start("capture", tiny_folder, prompt_file, path, *arguments)
        while child.poll() is None and not attends(child):
            time.sleep(0.01)
        time.sleep(0 if delay is COMMITTED else delay)
        while delay is COMMITTED and child.poll() is None and not list(path.rglob("commits/record/c.*")):
            time.sleep(0.01)
        code, lines = told(child, number)
        if code:
            stopped += 1
            assert code == 128 + number, lines
            assert len(lines) == 1 and lines[0].endswith("; run the same command again to resume")
        if path.exists():
            assert verify(path).ok
    assert stopped >= len(delays) - 2
    assert relact("capture", tiny_folder, prompt_file, path, *arguments)[0] == 0
    assert sample.without_time(sample.files(path)) == sample.without_time(sample.files(whole))
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(tmp_path):
    code = (
        f"{USUAL}import time; from relact.cli import app, entry\n"
        "def slow():\n"
        "    try: print('begun', flush=True); time.sleep(60)\n"
        "    finally: print('ending', flush=True); time.sleep(60)\n"
        "app.main = slow; entry.main()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "begun\n"
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "ending\n"
    child.send_signal(signal.SIGINT)
    assert child.wait(30) == -signal.SIGINT
