"""Every kind of result that relact writes is packed, opened, unpacked, exported and reported."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers import deep, everything, sample
from safetensors.numpy import load

import relact
from relact import schema
from relact.exchange.formats import SCORES
from relact.packed.store import open_store
from relact.reporting import gather as gathering
from relact.store.verify import verify

NEURON_LISTS = ("json", "csv", "safetensors")
MASKS = (*everything.MASKS, *everything.ALGEBRA, *everything.HALVES, "top-4", "top-8")
ABLATIONS = (*everything.ABLATIONS, *everything.MORE)


@pytest.fixture(scope="session")
def whole(everything):
    """A store with all of them."""
    return everything


@pytest.fixture(scope="module")
def matrices(whole):
    """What a report says of its ablations."""
    return gathering.ablations_of(whole)


@pytest.fixture(scope="module", params=[False, True], ids=["results", "activations"])
def shared(request, whole, tmp_path_factory):
    """The store as a package."""
    out = tmp_path_factory.mktemp("shared") / "p.zarr.zip"
    return open_store(relact.pack(whole, out, activations=request.param).path)


def test_these_are_all(whole):
    assert verify(whole.path).ok
    assert sorted(whole.children(schema.MASKS)) == sorted(MASKS)
    assert sorted(whole.children(schema.ABLATIONS)) == sorted(ABLATIONS)
    assert whole.children(schema.REGISTRATIONS) == ["registered"]
    assert whole.children(schema.LOOKS) == ["top-6"]
    assert whole.has(schema.SUPER_UNITS) and "probe" in whole.statistics()
    assert "k" in whole.dataset("ablations/sweep").dims


def test_what_is_unpacked_is_what_was_packed(whole, shared, tmp_path):
    unpacked = sample.files(relact.unpack(shared.path, tmp_path / "u.zarr").path)
    packed, original = shared.package.contents.about.activations, sample.files(whole.path)
    blocks = {name for name in original if name.split("/")[-1].startswith("c.")}
    kept = {name for name in original if packed or name not in blocks} - {schema.DOCUMENT}
    assert unpacked.keys() - {schema.DOCUMENT} == kept
    assert all(unpacked[name] == original[name] for name in kept)
    assert verify(tmp_path / "u.zarr").ok


@pytest.mark.parametrize("mask", MASKS)
def test_masks(whole, shared, tmp_path, mask):
    model = whole.manifest.model.id.encode()  # a folder, of which a package knows the name alone
    for form in NEURON_LISTS:
        written = [
            relact.export(store, tmp_path / name, form, mask=mask)[0].read_bytes()
            for store, name in ((whole, "own"), (shared, "shared"))
        ]
        if form == "safetensors":
            written = [
                str(sorted((name, array.tolist()) for name, array in load(raw).items())).encode()
                for raw in written
            ]
        assert written[0].replace(model, model.split(b"/")[-1]) == written[1] != b""
    ours, theirs = (relact.overlap(store, mask) for store in (whole, shared))
    assert ours.identical(theirs) and (ours["shared"].values.diagonal() > 0).any()


@pytest.mark.parametrize("mask", deep.rest(MASKS, ("top-6", "attribution", "pair")))
def test_a_mask_is_reported(whole, matrices, monkeypatch, mask):
    monkeypatch.setattr(gathering, "ablations_of", lambda store: matrices)  # the same for every mask
    contents = gathering.gather(whole, mask=mask)
    labels = (
        whole.dataset(f"masks/{mask}/mlp.gate")["relation"].values.tolist() if mask != "attribution" else None
    )
    assert contents.mask == mask and set(contents.choices) >= {"zero", "by-attribution"}
    assert labels is None or contents.overlap["relation"].unique().tolist() == labels


@pytest.mark.parametrize("ablation", deep.rest(ABLATIONS, ("zero", "text", "sweep", "other", "registered")))
def test_ablations(whole, shared, tmp_path, ablation):
    group = f"{schema.ABLATIONS}/{ablation}"
    assert whole.dataset(group).load().identical(shared.dataset(group).load())
    assert whole.ablation_record(ablation) == shared.ablation_record(ablation)
    for form in ("parquet", "errors"):
        tables = [
            pd.read_parquet(relact.export(store, tmp_path / f"{name}.parquet", form, ablation=ablation)[0])
            for store, name in ((whole, "own"), (shared, "shared"))
        ]
        pd.testing.assert_frame_equal(*tables)
        assert len(tables[0])
    assert len(relact.effect_table(shared, ablation))
    assert any(name.split(",")[0] == ablation for name in shared.card["figures"])


@pytest.mark.parametrize("group", ["looks/top-6", schema.SUPER_UNITS])
def test_other_results(whole, shared, group):
    assert whole.dataset(group).load().identical(shared.dataset(group).load())
    assert whole.attributes(group) == shared.attributes(group)


@pytest.mark.parametrize("form", SCORES)
def test_scores(whole, shared, tmp_path, form):
    written = [
        relact.export(store, tmp_path / name, form) and sample.files(tmp_path / name)
        for store, name in ((whole, "own"), (shared, "shared"))
    ]
    assert written[0] == written[1] and written[0]
    for relation in whole.relations():
        ours, theirs = (relact.top(store, relation=relation, n=50) for store in (whole, shared))
        pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)


@pytest.mark.slow
def test_the_page_and_its_figures(whole, tmp_path):
    written = relact.report(whole, tmp_path / "r.html", figures=tmp_path / "figures")
    page = (tmp_path / "r.html").read_text()
    assert len(written) > 10 and all(name in page for name in ("sweep", "doses-x0.5", "registered"))
