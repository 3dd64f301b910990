"""Hostile packages: every case is refused in one line, with nothing written outside the target
and nothing left behind.

The fuzz test runs 1,500 inputs in ``make deep``; ``RELACT_FUZZ=20000 pytest tests/packed/test_hostile.py -k
fuzz`` runs the full count.
"""

from __future__ import annotations

import json
import os
import random
import stat
import struct
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from helpers import deep, sample
from numcodecs import zstd

import relact
from relact.analysis import query
from relact.errors import RelactError, StoreError
from relact.packed import chunks, urls
from relact.packed.contents import CONSOLIDATED, render
from relact.packed.metadata import check_array
from relact.packed.package import open_package
from relact.packed.store import PackedStore
from relact.sharing import card
from relact.sharing.pack import pack
from relact.sharing.unpack import unpack
from relact.store.seal import files_below
from relact.store.shards import shard_index

FUZZED = int(os.environ.get("RELACT_FUZZ", "1500"))


@pytest.fixture(scope="module")
def package(tiny_study, tmp_path_factory):
    """A sound package as a dictionary of files."""
    folder = tmp_path_factory.mktemp("sound") / "p.zarr"
    pack(tiny_study.path, folder)
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


def archive(path, files, change=None):
    """Write ``files`` as a zip; ``change`` may alter an entry before it is written."""
    path.parent.mkdir(exist_ok=True)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        warnings.simplefilter("ignore")
        for name, raw in files:
            entry = zipfile.ZipInfo(name)
            if change:
                change(entry)
            target.writestr(entry, raw)
    return path


def refused(path, tmp_path):
    """The package is refused in one line and leaves no trace, up to two folders above its target."""
    folder = tmp_path / "deep" / "deeper"
    folder.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError) as caught:
        unpack(path, folder / "out")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert [file for file in sorted(tmp_path.rglob("*")) if file.suffix != ".lock"] == before
    assert not Path(NAMES["an absolute path"]).exists()
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


def test_the_package_is_sound_before_anything_is_done_to_it(package, tmp_path):
    plain = archive(tmp_path / "p.zarr.zip", package.items())
    rendered = forged(package, tmp_path / "again", lambda document: None)
    assert [unpack(path, path.parent / "out").relations() for path in (plain, rendered)] == [
        ["size", "colour"]
    ] * 2


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names(package, tmp_path, name):
    told = refused(archive(tmp_path / "p.zarr.zip", [*package.items(), (name, b"x")]), tmp_path)
    assert "a file is named" in told or "differ only in case" in told or "is a file and a folder" in told


def test_a_name_that_is_not_unicode(package, tmp_path):
    path = archive(tmp_path / "p.zarr.zip", [*package.items(), ("QQQQ", b"x")])
    path.write_bytes(path.read_bytes().replace(b"QQQQ", b"Q\xff\x1bQ"))
    assert "a file is named" in refused(path, tmp_path)


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
    assert "compressed too far" in refused(tmp_path / "p.zarr.zip", tmp_path)


def test_wrong_sizes_and_overlapping_files(package, tmp_path):
    path = archive(tmp_path / "p.zarr.zip", package.items())
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x01\x02")
    struct.pack_into("<II", raw, at + 20, 10**9, 10**9)
    path.write_bytes(raw)
    assert "overlaps another file or the archive's end" in refused(path, tmp_path)


def forged(package, tmp_path, change):
    """A package whose root says something else, with valid checksums."""
    document = json.loads(package["zarr.json"])
    change(document)
    return archive(tmp_path / "p.zarr.zip", {**package, "zarr.json": render(document)}.items())


def node(document, path):
    return document[CONSOLIDATED]["metadata"][path]


def narrow(document, group, width, chunk=None):
    """Give every array of a group another number of neurons, all of them the same."""
    for path, array in document[CONSOLIDATED]["metadata"].items():
        if path.startswith(f"{group}/") and "neuron" in array.get("dimension_names", ()):
            array["shape"][-1] = width
            grid = array["chunk_grid"]["configuration"]["chunk_shape"]
            grid[-1] = chunk or grid[-1]


AP = "scores/mlp.up/average_precision"
FORGERIES = {  # what is forged, and what the refusal says of it
    "a huge shape": (lambda d: node(d, AP).update(shape=[2, 3, 10**12]), "22727272728 chunks"),
    "a negative shape": (lambda d: node(d, AP).update(shape=[2, 3, -1]), "shape [2, 3, -1]"),
    "a huge chunk": (
        lambda d: node(d, AP)["chunk_grid"]["configuration"].update(chunk_shape=[1, 10**6, 10**6]),
        "chunks of 4000000000000 bytes",
    ),
    "an unknown codec": (
        lambda d: node(d, AP)["codecs"].append({"name": "numcodecs.pickle", "configuration": {}}),
        "codec 'numcodecs.pickle'",
    ),
    "an unknown data type": (lambda d: node(d, AP).update(data_type="object"), "data type 'object'"),
    "another data type": (
        lambda d: node(d, AP).update(data_type="float64"),
        "a chunk of 1056 bytes, expected 2112",
    ),
    "labels that are numbers": (
        lambda d: node(d, "scores/mlp.up/relation").update(data_type="float64", fill_value="NaN"),
        "codec {'name': 'vlen-utf8'",
    ),
    "neurons that the model lacks": (
        lambda d: node(d, "activations/mlp.up/activation").update(shape=[16, 3, 45]),
        "dimension neuron of neuron is 44, elsewhere 45",
    ),
    "more prompts than there are": (
        lambda d: d["attributes"]["relact"]["prompts"]["identify"].update(n=10**9),
        "its identity says mlp.gate of 1000000000 prompts",
    ),
    "scores of fewer neurons than are captured": (
        lambda d: narrow(d, "scores/mlp.up", 43),
        "3 layers of 44 neurons are captured, it has [2, 3, 43]",
    ),
    "a result larger than memory": (
        lambda d: narrow(d, "scores/mlp.up", 2 * 10**9, 10**7),
        "scores/mlp.up/average_precision: not acceptable: shape [2, 3, 2000000000]",
    ),
    "a block of no rows": (lambda d: d["attributes"]["relact"]["capture"].update(block=0), "block or batch"),
    "experts that neurons cannot be divided into": (
        lambda d: (
            d["attributes"]["relact"].update(format=2),
            d["attributes"]["relact"]["capture"].update(experts=45),
        ),
        "its identity says 45 experts, mlp.gate has 44 neurons",
    ),
    "no experts": (
        lambda d: d["attributes"]["relact"]["capture"].update(experts=0),
        "not acceptable: experts",
    ),
    "sites that are numbers": (
        lambda d: d["attributes"]["relact"]["capture"].update(sites=[1, 2]),
        "not acceptable: sites",
    ),
    "another fingerprint type": (
        lambda d: d["attributes"]["relact"]["model"].update(fingerprint={"a": 1}),
        "root attributes",
    ),
    "an escape in the model's name": (
        lambda d: d["attributes"]["relact"]["model"].update(id="\x1b[2Jowned"),
        "root attributes",
    ),
    "a checksum that is none": (
        lambda d: d["attributes"]["checksums"]["files"].update({"prompts/x": "zz"}),
        "prompts/x: checksum 'zz'",
    ),
    "a file that climbs": (
        lambda d: d["attributes"]["checksums"]["files"].update({"../../x": "00000000"}),
        "a file is named '../../x'",
    ),
    "a node that climbs": (
        lambda d: d[CONSOLIDATED]["metadata"].update({"../x": {"zarr_format": 3, "node_type": "group"}}),
        "a file is named '../x'",
    ),
    "metadata that its own file denies": (
        lambda d: node(d, AP)["attributes"].update(units="none"),
        "differs from the copy in the root's zarr.json",
    ),
    "a later format": (lambda d: d["attributes"]["relact"].update(format=99), "store format 99"),
}


@pytest.mark.parametrize(("change", "told"), FORGERIES.values(), ids=FORGERIES)
def test_forged_metadata(package, tmp_path, change, told):
    assert told in refused(forged(package, tmp_path, change), tmp_path)


def of_attribution(**changes):
    return lambda d: d["attributes"]["relact"]["capture"]["attribution"].update(changes)


FORGED_ATTRIBUTIONS = {
    "no record": (
        lambda d: d["attributes"]["relact"]["capture"].pop("attribution"),
        "its commit log does not fit its sites",
    ),
    "a record that is none": (
        lambda d: d["attributes"]["relact"]["capture"].update(attribution=[1]),
        "damaged root attributes",
    ),
    "a site that is not there": (of_attribution(sites=["attn.q"]), "its identity says attributions/attn.q"),
    "a site that climbs": (of_attribution(sites=["../x"]), "not acceptable: sites"),
    "sites that are numbers": (of_attribution(sites=[1]), "not acceptable: sites"),
    "another target": (of_attribution(target="x"), "not acceptable: how attributions were made"),
    "a pool of another type": (of_attribution(pool={}), "not acceptable: how attributions were made"),
    "another method": (of_attribution(method=["gradient"]), "how attributions were made"),
    "steps of no path": (of_attribution(steps=3), "how attributions were made"),
    "a path without steps": (
        of_attribution(method="integrated", path="site"),
        "how attributions were made",
    ),
    "steps that are a text": (
        of_attribution(method="integrated", path="site", steps="3"),
        "how attributions were made",
    ),
    "another dtype": (of_attribution(dtype="float16"), "attributions/attn.k is not laid out in blocks of 4"),
    "a token that nobody asked for": (of_attribution(token=7), "the token that is attributed"),
    "a token that is a text": (of_attribution(target="token", token="x"), "the token that is attributed"),
    "more than is known": (of_attribution(code="x"), "damaged root attributes"),
    "another shape": (
        lambda d: node(d, "attributions/attn.k/attribution").update(shape=[10, 2, 25]),
        "dimension neuron of neuron is 24, elsewhere 25",
    ),
}


@pytest.mark.parametrize(("change", "told"), FORGED_ATTRIBUTIONS.values(), ids=FORGED_ATTRIBUTIONS)
def test_forged_attributions(tmp_path, change, told):
    pack(sample.full(tmp_path / "s.zarr", 10).path, tmp_path / "sound.zarr", activations=True)
    sound = {
        name: (tmp_path / "sound.zarr" / name).read_bytes() for name in files_below(tmp_path / "sound.zarr")
    }
    assert unpack(forged(sound, tmp_path / "a", lambda d: None), tmp_path / "out").missing_blocks() == []
    assert told in refused(forged(sound, tmp_path / "b", change), tmp_path)


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff\xfe", b"[]", b""])
def test_documents_that_are_no_metadata(package, tmp_path, raw):
    assert "zarr.json: " in refused(
        archive(tmp_path / "p.zarr.zip", {**package, "zarr.json": raw}.items()), tmp_path
    )


def test_a_chunk_that_declares_more_than_fits(package):
    facts = check_array("average_precision", json.loads(package[f"{AP}/zarr.json"]), "x")
    chunks.check_object(package[f"{AP}/c/0/0/0"], facts, "x")
    for bomb in (zstd.compress(bytes(10**8)), b"\x28\xb5\x2f\xfd\x00\x00", b"", zstd.compress(b"short")):
        with pytest.raises(StoreError):
            chunks.check_object(bomb, facts, "x")


def test_scripts_and_markup_in_names_are_only_text(tiny_study):
    forged = {
        **card.describe(tiny_study, ["scores"], None),
        "model": "<script>x</script>`|",
        "relations": ["<img src=x>`"],
    }
    assert "<script>" not in (text := card.render(forged, 1)) and "<img" not in text


@pytest.fixture(scope="module")
def small(tiny_folder, tiny_prompts, tmp_path_factory):
    """A package with every stage of a study of one site, and its root's metadata."""
    folder = tmp_path_factory.mktemp("small")
    capture, ablate = relact.CaptureOptions(sites="mlp.up", attribution=True), relact.AblateOptions(seeds=[0])
    relact.run(
        tiny_prompts, model=str(tiny_folder), store=folder / "s.zarr", k=3, capture=capture, ablate=ablate
    )
    pack(folder / "s.zarr", folder / "p.zarr")
    return folder / "p.zarr", (folder / "p.zarr" / "zarr.json").read_bytes()


ODD = [None, True, -1, 0, 1, 2**31, 10**18, 1.5, "", "x", "../x", "\x00", [], {}, [0], {"name": "x"}, "NaN"]
ODD.append("a" * 2000)


def with_other_bytes(raw, generator):
    """A few bytes changed; the end cut off half of the time."""
    changed = bytearray(raw)
    for _ in range(generator.randint(1, 5)):
        changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed[: generator.randrange(len(changed))] if generator.random() < 0.5 else changed)


def with_another_value(raw, generator):
    """One value somewhere in the document is an odd one; checksums are valid again where there can be any."""
    document = json.loads(raw)
    at = document
    while True:
        key = generator.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if not isinstance(at[key], (dict, list)) or not at[key] or generator.random() < 0.1:
            break
        at = at[key]
    at[key] = generator.choice(ODD)
    try:
        return render(document)
    except (KeyError, TypeError):
        return json.dumps(document).encode()


@pytest.mark.parametrize("count", deep.more(200, FUZZED))
def test_fuzzed_metadata(small, count):
    """Values and bytes changed at random: opened and asked, or refused; nothing else."""
    generator = random.Random(0)
    folder, raw = small
    before = sorted(folder.parent.rglob("*"))
    outcomes = Counter()
    for number in range(count):
        change = with_another_value if number % 4 else with_other_bytes
        (folder / "zarr.json").write_bytes(change(raw, generator))
        try:
            query.top(PackedStore(open_package(urls.place(folder))), relation="size", n=3)
            outcomes[change, "opened"] += 1
        except RelactError as error:
            assert "\n" not in str(error)
            outcomes[change, "refused"] += 1
    print(outcomes)
    assert outcomes.total() == count and outcomes[with_another_value, "refused"] > count // 3
    assert outcomes[with_other_bytes, "opened"] < count // 20 < outcomes[with_another_value, "opened"]
    assert sorted(folder.parent.rglob("*")) == before


def test_fuzzed_shard_indexes():
    """Bytes at random, or a place and a size that are nearly right; mostly with a checksum that is."""
    generator = np.random.default_rng(0)
    good, accepted = bytes(64) + shard_index([32, 32]), 0
    assert chunks.check_shard_index(good, len(good), 2, "x") == [(0, 32), (32, 32)]
    for _ in range(FUZZED):
        raw = bytearray(good)
        if generator.random() < 0.5:
            at = 64 + 8 * generator.integers(4)
            raw[at : at + 8] = generator.integers(100).tobytes()
        else:
            for at in generator.integers(64, len(raw), 3):
                raw[at] = generator.integers(256)
        if generator.random() < 0.7:
            raw[-4:] = google_crc32c.value(bytes(raw[64:-4])).to_bytes(4, "little")
        try:
            places = chunks.check_shard_index(bytes(raw), len(raw), 2, "x")
        except StoreError:
            continue
        accepted += 1
        assert all(0 <= start <= start + size <= 64 for start, size in places)
    assert accepted > FUZZED // 20
