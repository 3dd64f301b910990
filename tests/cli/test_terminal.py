"""What a store says is shown, not obeyed: no text of it reaches a terminal or a spreadsheet as a command."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest

from relact.analysis import tables
from relact.cli import drawing, terminal
from relact.errors import StoreError

HOSTILE = [
    "\x1b]8;;http://example.org\x07link\x1b]8;;\x07",
    "\x1b]52;c;cm0gLXJmIC8=\x07",
    "\x1b[2J\x1b[31mred",
    "\x9b31m",
    "\x7f\x08\x00",
    "\u202etxt.exe",
    "a\r\nb\tc",
]


@pytest.fixture(params=[False, True])
def shown(monkeypatch, request):
    """A console that writes to a buffer, as a pipe or as a terminal."""
    buffer = io.StringIO()
    colours = "truecolor" if request.param else None
    console = terminal.Plain(file=buffer, force_terminal=request.param, color_system=colours, width=200)
    for module in (terminal, drawing):
        monkeypatch.setattr(module, "out", console)
    monkeypatch.setattr(terminal, "Plain", lambda **_: console)
    return buffer


@pytest.mark.parametrize("text", HOSTILE)
def test_no_control_character_reaches_a_terminal(shown, capsys, text):
    terminal.say(text)
    terminal.pairs({"relation": text, text: 1})
    terminal.table(pd.DataFrame({"relation": [text], text: [0.5]}), title=text, heat=(text,))
    seen = shown.getvalue()
    own = seen.replace("\x1b[", "").replace("\n", "") if terminal.out.is_terminal else seen.replace("\n", "")
    assert own.isprintable()
    for hidden in ("\x1b]", "\x1b[2J", "\x9b", "\x07", "\u202e"):
        assert hidden not in seen
    terminal.problem(str(StoreError(text, where=text)))
    terminal.dump({text: text})
    captured = capsys.readouterr()
    assert captured.err.replace("\n", "").isprintable() and captured.out.replace("\n", "").isprintable()
    assert json.loads(captured.out) == {text: text}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1", "'=1", "'", "a=b", "''-", "\r1", "Größe"])
def test_no_text_of_a_csv_file_is_a_formula_and_each_is_read_as_it_was(tmp_path, text):
    frame = pd.DataFrame({"relation": [text, "a"], "drop": [-1.5, 2.0]})
    tables.write_table(frame, tmp_path / "t.csv")
    read = pd.read_csv(tmp_path / "t.csv", keep_default_na=False, lineterminator="\n")
    assert read["relation"][0][0] not in "=+-@\t\r" and read["drop"].tolist() == [-1.5, 2.0]
    assert tables.as_meant(read["relation"][0]) == text
