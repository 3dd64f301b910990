"""What a store says is shown, not obeyed: no text of it reaches a terminal or a spreadsheet as a command."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from relact.analysis import tables
from relact.cli import console, drawing, terminal
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
def coloured(monkeypatch, request):
    """Whether what is printed is drawn by rich, as on a terminal, or written, as to a pipe."""
    colours = "truecolor" if request.param else None
    made = console.Plain(force_terminal=request.param, color_system=colours, width=200)
    for module in (console, drawing):
        monkeypatch.setattr(module, "out", made)
    monkeypatch.setattr(terminal, "is_coloured", lambda stream: request.param)
    return request.param


@pytest.mark.parametrize("text", HOSTILE)
def test_no_control_character_reaches_a_terminal(coloured, capsys, text):
    terminal.say(text)
    terminal.pairs({"relation": text, text: 1})
    terminal.table(pd.DataFrame({"relation": [text], text: [0.5]}), title=text, heat=(text,))
    seen = capsys.readouterr().out
    own = seen.replace("\x1b[", "").replace("\n", "") if coloured else seen.replace("\n", "")
    assert own.isprintable()
    for hidden in ("\x1b]", "\x1b[2J", "\x9b", "\x07", "\u202e"):
        assert hidden not in seen
    terminal.problem(str(StoreError(text, where=text)))
    terminal.dump({text: text})
    captured = capsys.readouterr()
    assert captured.err.replace("\n", "").isprintable() and captured.out.replace("\n", "").isprintable()
    assert json.loads(captured.out) == {text: text}


@pytest.mark.parametrize("title", [None, "[b] :smile:"])
def test_a_pipe_gets_the_words_of_the_terminal(monkeypatch, capsys, title):
    frame = pd.DataFrame(
        {"relation": ["首都", "größe", "[red]a", ":smile:"], "n": [1, 20, 300, -4], "v": [0.5, np.nan, 1, -2]}
    )

    def printed(drawn):
        monkeypatch.setattr(terminal, "is_coloured", lambda stream: drawn)
        terminal.table(frame, title, heat=("v",))
        terminal.table({name: column.to_numpy() for name, column in frame.items()}, title)
        terminal.table(frame[:0])
        terminal.pairs({"relation": "首都 [red]", "longer name": 1.5})
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    assert printed(False) == printed(True)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1", "'=1", "'", "a=b", "''-", "\r1", "Größe"])
def test_no_text_of_a_csv_file_is_a_formula_and_each_is_read_as_it_was(tmp_path, text):
    frame = pd.DataFrame({"relation": [text, "a"], "drop": [-1.5, 2.0]})
    tables.write_table(frame, tmp_path / "t.csv")
    read = pd.read_csv(tmp_path / "t.csv", keep_default_na=False, lineterminator="\n")
    assert read["relation"][0][0] not in "=+-@\t\r" and read["drop"].tolist() == [-1.5, 2.0]
    assert tables.as_meant(read["relation"][0]) == text
