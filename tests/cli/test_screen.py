"""What a person sees who runs the commands in a real terminal: something at once, and the time left."""

from __future__ import annotations

import re

import pytest
from helpers import tiny
from helpers.screen import ROOT, screen

SLOW = """
import time
from relact.cli import progress
real, start = time.monotonic, time.monotonic()
progress.time = type("Clock", (), {"monotonic": staticmethod(lambda: start + 60 * (real() - start))})
with progress.Stages() as stages:  # one second is a minute: pieces are 40 seconds apart
    for stage in ("capture", "ablate"):
        first = 60 if stage == "ablate" else 0
        for done in range(first, 121, 20):
            stages(stage, done, 120, "prompts")
            time.sleep(0.7)
"""


@pytest.mark.slow
def test_slow_stages_show_the_time_left_all_the_while(tmp_path):
    """Pieces that are further apart than the half minute after which rich forgets them."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    with screen([script]) as terminal:
        terminal.wait_for(r"capture .* 0/120 prompts .*so far")
        terminal.wait_for(r"capture .* 40/120 prompts .*prompts/s +\d+:\d\d left")
        terminal.wait_for(r"capture .* 120/120 prompts .* in \d+:\d\d")
        terminal.wait_for(r"ablate .* 60/120 prompts .*so far")  # what was there says nothing of the rate
        terminal.wait_for(r"ablate .* 80/120 prompts .*\d+:\d\d left")
        terminal.wait_for(r"\[done\]")
    pictures = [shown for shown in terminal.seen if re.search(r"(?<!\d)(20|40|60|80|100)/120", shown)]
    running = [
        line
        for shown in pictures
        for line in shown.splitlines()
        if re.search(r"capture .* (20|40|60|80|100)/120", line)
    ]
    assert running and all(re.search(r"\d+:\d\d left$", line.rstrip()) for line in running)
    assert not any("-:--" in shown for shown in terminal.seen)


@pytest.mark.slow
def test_a_study_says_what_it_does_from_the_first_second(tmp_path, prompt_file):
    folder, store = tiny.save(tmp_path / "model"), tmp_path / "s.zarr"
    command = [ROOT / "cli.py", "run", prompt_file, "--model", folder, "--store", store, "--k", 10]
    with screen(command) as terminal:
        first = terminal.wait_for(r"\S")
        assert "loading torch and transformers" in first
        shown = terminal.wait_for(r"\[done\]")
    assert f"loading model {folder}"[:40] in shown
    for stage, total in (("capture", 16), ("ablate", None), ("driven", None)):
        counted = rf"{total}/{total}" if total else r"[\d,]+/[\d,]+"
        assert re.search(rf"{stage} .* {counted} .* in \d+:\d\d", shown), stage
    assert "Own neurons" in shown.replace("own", "Own") or "accuracy in percent" in shown


@pytest.mark.slow
def test_an_interrupted_capture_says_where_it_goes_on(tmp_path, prompt_file):
    import relact
    from relact.store import local

    folder, store = tiny.save(tmp_path / "model"), tmp_path / "s.zarr"
    relact.capture(str(folder), prompt_file, store, block=4)
    local.open(store).log.remove(2)
    command = [ROOT / "cli.py", "capture", folder, prompt_file, store, "--block", 4]
    with screen(command) as terminal:
        shown = terminal.wait_for(r"\[done\]")
    assert "resuming: 12 of 16 prompts are there" in shown


@pytest.mark.slow
def test_a_gguf_file_is_said_to_be_decoded(tmp_path):
    file = tiny.save_gguf(tmp_path / "tiny.gguf")
    command = [ROOT / "cli.py", "generate", file, "a", "--max-new-tokens", 2]
    with screen(command, RELACT_CACHE=str(tmp_path / "cache")) as terminal:
        shown = terminal.wait_for(r"\[done\]")
    lines = [line.strip() for line in shown.splitlines()]
    said = [line for line in lines if line.startswith(("loading", "decoding"))]
    assert said[0] == "loading torch and transformers"
    assert any(line.startswith("decoding GGUF into the cache") for line in said), shown
