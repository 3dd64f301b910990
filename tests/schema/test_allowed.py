"""Names: what may be given is accepted by everything that reads it, all else is refused before any work."""

from __future__ import annotations

import os
import unicodedata
from urllib.parse import unquote

import pytest
from helpers import sample
from hypothesis import assume, given
from hypothesis import strategies as st

import relact
from relact import schema
from relact.errors import InputError, StoreError
from relact.packed.names import check_key, check_names
from relact.relations import table as table_file
from relact.scoring import masks
from relact.store import aside, local

TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)
REFUSED = {
    "a:b": "some file system reserves :",
    "a/b": "some file system reserves /",
    "..": "names no file",
    ".hidden": "begins with a dot",
    "x" * 300: "is too long",
    "€" * 60: "is too long",
    "%" * 60: "is too long",
    "a\tb": "not printable",
    "\x1b[2J": "not printable",
    "a ": "begins or ends with a space",
    unicodedata.normalize("NFD", "Größe"): "letters and accents are apart",
}
ALLOWED = ["a", "50% off", "Größe", "~a~", "x" * 120, "日本語", "a.b,c-d", "(x)'"]
LABELS = [
    "a/b",
    "a, b",
    "..",
    ".",
    "x" * 300,
    "CON: 1",
    unicodedata.normalize("NFD", "Größe"),
    "=1+1",
    "می‌روم",
    "50 %",
]


def nearly_a_name(text: str) -> str:
    """`text` without most of what no name may have, so that few are refused."""
    kept = "".join(char for char in text if char.isprintable() and char not in '/\\:*?"<>|')
    return unicodedata.normalize("NFC", kept[:25]).strip(" .") or "name"


@given(TEXTS.map(nearly_a_name))
def test_a_name_that_may_be_given_is_accepted_by_all_that_read_it(name):
    try:
        schema.require_result(name, (), "a mask")
    except InputError:
        assume(False)
    check_key(f"masks/{name}/mlp.gate/zarr.json", "package")
    parked = aside.place(sample.Path("s.zarr"), "old", f"registrations/{name}").name
    assert "/" not in parked and unquote(parked) == f"old~registrations/{name}"
    assert (
        len(f"{parked}.partial".encode()) <= 255 and len(f".{'s' * 100}.{name}.jsonl.partial".encode()) <= 255
    )


@given(st.lists(TEXTS, unique=True, max_size=8))
def test_every_label_has_a_file_name_of_its_own(labels):
    names = schema.file_names(labels)
    assert list(names) == labels
    check_names(names.values(), "export")
    for name in names.values():
        check_key(f"{name}.json", "export")
        assert not name.startswith(".")


@given(TEXTS)
def test_what_a_relation_may_be_called_can_be_read_and_shown(label):
    if not schema.trouble_of_label(label):
        assert schema.is_label(label) and schema.is_label(f"{label} without {label}")
        assert schema.escaped(label) == label
    assert schema.escaped(label).isprintable() or set(label) & set("\u200c\u200d")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A scored store, to which masks are added."""
    return relact.score(sample.full(tmp_path_factory.mktemp("allowed") / "s.zarr", 9))


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_some_reader_refuses_is_refused_before_any_work(store, name):
    with pytest.raises(InputError, match=f"cannot name a mask: .*{REFUSED[name]}"):
        relact.select(store, k=3, name=name)
    with pytest.raises(InputError, match=f"cannot name an ablation: .*{REFUSED[name]}"):
        relact.ablate(store, mask="none", name=name)


def test_names_that_differ_only_in_case_are_refused(store):
    relact.select(store, k=3, name="Top")
    with pytest.raises(InputError, match="'top' cannot name a mask: it differs from 'Top' only in case"):
        relact.select(store, k=3, name="top")
    assert relact.select(store, k=4, name="Top") == "Top"


def test_masks_of_allowed_names_are_packed_unpacked_and_exported(store, tmp_path):
    before = store.children("masks")
    for name in ALLOWED:
        assert relact.select(store, k=3, name=name) == name
    relact.pack(store, tmp_path / "p.zarr.zip")
    again = relact.unpack(tmp_path / "p.zarr.zip", tmp_path / "t.zarr")
    assert sorted(again.children("masks")) == sorted([*before, *ALLOWED])
    for name in ALLOWED:
        assert masks.read(again, name)[0] == masks.read(store, name)[0]
        assert relact.export(tmp_path / "p.zarr.zip", tmp_path / "m.json", "json", mask=name)


@pytest.mark.parametrize(
    "bad", ["intact", "random", "random-1", "a\x1b[31m", "a\nb", " a", "a\x9b", "x" * 500, "a\u202eb"]
)
def test_relations_of_such_names_are_refused_where_prompts_are_made_and_captured(
    bad, tmp_path, tiny_prompts, model
):
    table = tiny_prompts.assign(relation=tiny_prompts["relation"].replace("size", bad))
    with pytest.raises(InputError, match="column 'relation'"):
        table_file.write(table, tmp_path / "p.parquet")
    with pytest.raises(InputError, match="column 'relation'"):
        relact.capture(model, table, tmp_path / "s.zarr")
    assert list(tmp_path.iterdir()) == []


def with_labels(tmp_path, monkeypatch, labels):
    """A scored store whose relations are called so."""
    table = sample.table

    def renamed(n, start=0, split=schema.IDENTIFY):
        frame = table(n, start, split)
        return frame.assign(relation=[labels[number % len(labels)] for number in range(n)])

    monkeypatch.setattr(sample, "table", renamed)
    return relact.score(sample.full(tmp_path / "s.zarr", 4 * len(labels), attribution=None))


def test_relations_of_any_allowed_name_are_exported_and_shared(tmp_path, monkeypatch):
    assert not any(map(schema.trouble_of_label, LABELS))
    store = with_labels(tmp_path, monkeypatch, LABELS)
    relact.select(store, k=3)
    relact.select(store, k=2, name="of-two")
    assert masks.combine(store, "top-3", ("a/b", "a, b")) == "top-3-a%2Fb-a, b"
    for form in ("concepts", "csv", "json", "safetensors"):
        assert relact.export(store, tmp_path / form, form, mask="top-3")
    for folder, _, files in os.walk(tmp_path / "concepts"):
        for file in files:
            check_key(os.path.relpath(os.path.join(folder, file), tmp_path), "export")
    assert len(list((tmp_path / "concepts").rglob("*.json"))) == len(LABELS)
    relact.pack(store, tmp_path / "p.zarr.zip")
    again = relact.unpack(tmp_path / "p.zarr.zip", tmp_path / "t.zarr")
    for label in LABELS:
        assert relact.top(tmp_path / "p.zarr.zip", relation=label, n=3).equals(
            relact.top(again, relation=label, n=3)
        )


def test_older_stores_with_such_masks_are_read_and_say_why_they_are_not_packed(tmp_path):
    store = relact.score(sample.full(tmp_path / "s.zarr", 9))
    relact.select(store, k=3, name="a-b")
    with local.writing(store):
        os.rename(store.path / "masks" / "a-b", store.path / "masks" / "a:b")
    assert masks.read(store, "a:b")[0] == ["size", "colour", "Größe"]
    with pytest.raises(StoreError, match=r"masks/a:b.*: some file system reserves :.*another --name"):
        relact.pack(store, tmp_path / "p.zarr.zip")
    assert not (tmp_path / "p.zarr.zip").exists()
