"""Hostile packages: every case is refused in one line, with nothing written outside the target
and nothing left behind.

The fuzz test runs 1,500 inputs; ``RELACT_FUZZ=20000 pytest tests/packed/test_hostile.py -k fuzz`` runs the
full count.
"""

from __future__ import annotations

import copy
import json
import os
import random
import stat
import struct
import warnings
import zipfile

import numpy as np
import pytest
from numcodecs import zstd

from relact.analysis import query
from relact.errors import RelactError, StoreError
from relact.packed import chunks, urls
from relact.packed.contents import CONSOLIDATED, render
from relact.packed.metadata import check_array
from relact.packed.package import open_package
from relact.sharing.pack import pack
from relact.sharing.unpack import unpack
from relact.store.seal import files_below

FUZZED = int(os.environ.get("RELACT_FUZZ", "1500"))


@pytest.fixture(scope="module")
def package(tiny_study, tmp_path_factory):
    """A sound package as a dictionary of files."""
    folder = tmp_path_factory.mktemp("sound") / "p.zarr"
    pack(tiny_study.path, folder)
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


def archive(path, files, change=None):
    """Write ``files`` as a zip; ``change`` may alter an entry before it is written."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        warnings.simplefilter("ignore")
        for name, raw in files:
            entry = zipfile.ZipInfo(name)
            if change:
                change(entry)
            target.writestr(entry, raw)
    return path


def refused(path, tmp_path):
    """The package is refused in one line and leaves no trace."""
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(StoreError) as caught:
        unpack(path, tmp_path / "out")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    after = [one for one in sorted(tmp_path.parent.rglob("*")) if not one.name.endswith(".lock")]
    assert [one for one in before if not one.name.endswith(".lock")] == after
    return str(caught.value)


NAMES = {
    "an absolute path": "/etc/relact-was-here",
    "a climbing path": "scores/../../relact-was-here",
    "a backslash": "..\\..\\relact-was-here",
    "a drive": "C:/relact-was-here",
    "an empty part": "scores//x",
    "a control character": "scores/\x1b[31mred",
    "a decomposed letter": "scores/e\u0301",
    "a very long name": "x" * 300,
    "a folder that is a file": "zarr.json/x",
    "a name that differs in case only": "ZARR.json",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names(package, tmp_path, name):
    refused(archive(tmp_path / "p.zarr.zip", [*package.items(), (name, b"x")]), tmp_path)


def test_a_name_that_is_not_unicode(package, tmp_path):
    path = archive(tmp_path / "p.zarr.zip", [*package.items(), ("QQQQ", b"x")])
    path.write_bytes(path.read_bytes().replace(b"QQQQ", b"Q\xff\x1bQ"))
    refused(path, tmp_path)


def test_a_link(package, tmp_path):
    def link(entry):
        if entry.filename == "link":
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16

    assert "link" in refused(
        archive(tmp_path / "p.zarr.zip", [*package.items(), ("link", b"/etc")], link), tmp_path
    )


def test_duplicate_names(package, tmp_path):
    assert "two files" in refused(
        archive(tmp_path / "p.zarr.zip", [*package.items(), ("zarr.json", package["zarr.json"])]), tmp_path
    )


def test_a_zip_bomb(package, tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zarr.zip", "w", zipfile.ZIP_DEFLATED) as target:
        for name, raw in package.items():
            target.writestr(name, raw)
        target.writestr("bomb", bytes(50_000_000))
    assert "compressed" in refused(tmp_path / "p.zarr.zip", tmp_path)


def test_wrong_sizes_and_overlapping_files(package, tmp_path):
    path = archive(tmp_path / "p.zarr.zip", package.items())
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x01\x02")
    struct.pack_into("<II", raw, at + 20, 10**9, 10**9)
    path.write_bytes(raw)
    refused(path, tmp_path)


def forged(package, tmp_path, change):
    """A package whose root says something else, with valid checksums."""
    document = json.loads(package["zarr.json"])
    change(document)
    return archive(tmp_path / "p.zarr.zip", {**package, "zarr.json": render(document)}.items())


def node(document, path):
    return document[CONSOLIDATED]["metadata"][path]


AP = "scores/mlp.up/average_precision"
FORGERIES = {
    "a huge shape": lambda d: node(d, AP).update(shape=[2, 3, 10**12]),
    "a negative shape": lambda d: node(d, AP).update(shape=[2, 3, -1]),
    "a huge chunk": lambda d: node(d, AP)["chunk_grid"]["configuration"].update(
        chunk_shape=[1, 10**6, 10**6]
    ),
    "an unknown codec": lambda d: node(d, AP)["codecs"].append(
        {"name": "numcodecs.pickle", "configuration": {}}
    ),
    "an unknown data type": lambda d: node(d, AP).update(data_type="object"),
    "another data type": lambda d: node(d, AP).update(data_type="float64"),
    "labels that are numbers": lambda d: node(d, "scores/mlp.up/relation").update(
        data_type="float64", fill_value="NaN"
    ),
    "neurons that the model lacks": lambda d: node(d, "activations/mlp.up/activation").update(
        shape=[16, 3, 45]
    ),
    "more prompts than there are": lambda d: d["attributes"]["relact"]["prompts"]["identify"].update(n=10**9),
    "a block of no rows": lambda d: d["attributes"]["relact"]["capture"].update(block=0),
    "sites that are numbers": lambda d: d["attributes"]["relact"]["capture"].update(sites=[1, 2]),
    "another fingerprint type": lambda d: d["attributes"]["relact"]["model"].update(fingerprint={"a": 1}),
    "an escape in the model's name": lambda d: d["attributes"]["relact"]["model"].update(id="\x1b[2Jowned"),
    "a checksum that is none": lambda d: d["attributes"]["checksums"]["files"].update({"prompts/x": "zz"}),
    "a file that climbs": lambda d: d["attributes"]["checksums"]["files"].update({"../../x": "00000000"}),
    "a node that climbs": lambda d: d[CONSOLIDATED]["metadata"].update(
        {"../x": {"zarr_format": 3, "node_type": "group"}}
    ),
    "metadata that its own file denies": lambda d: node(d, AP)["attributes"].update(units="none"),
    "a later format": lambda d: d["attributes"]["relact"].update(format=99),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_forged_metadata(package, tmp_path, change):
    refused(forged(package, tmp_path, change), tmp_path)


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff\xfe", b"[]", b""])
def test_documents_that_are_no_metadata(package, tmp_path, raw):
    refused(archive(tmp_path / "p.zarr.zip", {**package, "zarr.json": raw}.items()), tmp_path)


def test_a_chunk_that_declares_more_than_fits(package):
    facts = check_array("average_precision", json.loads(package[f"{AP}/zarr.json"]), "x")
    chunks.check_object(package[f"{AP}/c/0/0/0"], facts, "x")
    for bomb in (zstd.compress(bytes(10**8)), b"\x28\xb5\x2f\xfd\x00\x00", b"", zstd.compress(b"short")):
        with pytest.raises(StoreError):
            chunks.check_object(bomb, facts, "x")


def test_scripts_and_markup_in_names_are_only_text(tiny_study):
    from relact.sharing import card

    forged = {
        **card.describe(tiny_study, ["scores"], None),
        "model": "<script>x</script>`|",
        "relations": ["<img src=x>`"],
    }
    assert "<script>" not in (text := card.render(forged, 1)) and "<img" not in text


def test_fuzzed_metadata(package, tmp_path):
    """Values and bytes changed at random, checksums made valid again: opened and asked, or refused;
    nothing else.
    """
    generator = random.Random(0)
    folder = tmp_path / "p.zarr"
    for name, raw in package.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    original = json.loads(package["zarr.json"])
    odd = [
        None,
        True,
        -1,
        0,
        1,
        2**31,
        10**18,
        1.5,
        "",
        "x",
        "../x",
        "\x00",
        [],
        {},
        [0],
        {"name": "x"},
        "NaN",
        "a" * 2000,
    ]
    outcomes = {"refused": 0, "opened": 0}
    for number in range(FUZZED):
        if number % 4 == 0:
            raw = bytearray(package["zarr.json"])
            for _ in range(generator.randint(1, 5)):
                raw[generator.randrange(len(raw))] = generator.randrange(256)
            raw = bytes(raw[: generator.randrange(len(raw))] if number % 8 == 0 else raw)
        else:
            document = copy.deepcopy(original)
            at = document
            while isinstance(at, (dict, list)) and at:
                key = generator.choice(list(at) if isinstance(at, dict) else range(len(at)))
                if not isinstance(at[key], (dict, list)) or not at[key] or generator.random() < 0.1:
                    break
                at = at[key]
            at[key] = generator.choice(odd)
            try:
                raw = render(document)
            except (KeyError, TypeError):
                raw = json.dumps(document).encode()
        (folder / "zarr.json").write_bytes(raw)
        try:
            from relact.packed.store import PackedStore

            opened = PackedStore(open_package(urls.place(folder)))
            query.top(opened, relation="size", n=3)
            outcomes["opened"] += 1
        except RelactError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert sum(outcomes.values()) == FUZZED and outcomes["refused"] > FUZZED // 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.zarr"]


def test_fuzzed_shard_indexes():
    generator = np.random.default_rng(0)
    from relact.store.shards import shard_index

    good = bytes(64) + shard_index([32, 32])
    assert chunks.check_shard_index(good, len(good), 2, "x") == [(0, 32), (32, 32)]
    for _ in range(FUZZED):
        raw = bytearray(good)
        for at in generator.integers(64, len(raw), 3):
            raw[at] = generator.integers(256)
        if generator.random() < 0.7:
            import google_crc32c

            raw[-4:] = google_crc32c.value(bytes(raw[64:-4])).to_bytes(4, "little")
        try:
            places = chunks.check_shard_index(bytes(raw), len(raw), 2, "x")
        except StoreError:
            continue
        assert all(0 <= start <= start + size <= 64 for start, size in places)
