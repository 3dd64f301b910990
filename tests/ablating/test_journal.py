"""The journal of an ablation: what was flushed is known again, wherever the file was cut."""

from __future__ import annotations

import os

import pytest

from relact.ablating.journal import Journal

LINES = [{"a": {0: ("Zürich", -0.5, 1.0), 3: ("東京", -1.5, float("inf"))}}, {"b": {1: ("é", -2.0, 0.25)}}]


def written(path):
    journal = Journal(path, "identity ü")
    for line in LINES:
        journal.write(line)
    return path.read_bytes()


def known(path):
    return {digest: found for digest, found in Journal(path, "identity ü").replies.items() if found}


def test_a_cut_at_any_byte_leaves_the_lines_before_it(tmp_path):
    path = tmp_path / ".s.zarr.run.jsonl"
    raw = written(path)
    ends = [at for at, byte in enumerate(raw) if byte == ord("\n")]
    assert len(ends) == 3
    for cut in range(len(raw)):
        path.write_bytes(raw[:cut])
        whole = sum(cut >= end for end in ends[1:])
        expected = {digest: found for line in LINES[:whole] for digest, found in line.items()}
        assert known(path) == expected, cut
        Journal(path, "identity ü").write({"c": {2: ("x", 0.0, 0.0)}})
        assert known(path) == {**expected, "c": {2: ("x", 0.0, 0.0)}}, cut


def test_a_changed_byte_is_never_read_as_a_reply(tmp_path):
    path = tmp_path / ".s.zarr.run.jsonl"
    raw = written(path)
    whole = {digest: found for line in LINES for digest, found in line.items()}
    for at in range(len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        assert known(path).items() < whole.items(), at


def test_a_crash_while_it_is_rewritten_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / ".s.zarr.run.jsonl"
    raw = written(path)
    path.write_bytes(raw + b"half a line")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        Journal(path, "identity ü")
    monkeypatch.undo()
    assert set(known(path)) == {"a", "b"} and path.read_bytes() == raw


def test_another_store_s_journal_and_a_link_are_not_used(tmp_path):
    path, other = tmp_path / ".s.zarr.run.jsonl", tmp_path / "precious"
    written(path)
    assert not Journal(path, "another").replies and not path.exists()
    other.write_text("mine")
    path.symlink_to(other)
    journal = Journal(path, "identity ü")
    journal.write(LINES[0])
    assert other.read_text() == "mine" and set(known(path)) == {"a"}
