"""Stores opened where they lie: static servers, an S3-compatible server, a hub; few requests,
clear errors.
"""

from __future__ import annotations

import os
import shutil
import time
import zipfile

import numpy as np
import pandas as pd
import pytest
from helpers.servers import Broken, Hub, Plain, Ranged, refusing, serving
from huggingface_hub import constants
from obstore.store import S3Store

from relact.analysis import query
from relact.errors import InputError, StoreError
from relact.packed import archive, urls
from relact.packed import cache as disk_cache
from relact.packed.store import open_store
from relact.sharing import publish
from relact.sharing.pack import pack
from relact.sharing.publish import pull, push
from relact.sharing.source import without_path
from relact.sharing.unpack import check, unpack


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no credentials of this machine."""
    monkeypatch.setenv("RELACT_CACHE", str(tmp_path / "cache"))
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    return tmp_path / "cache"


def test_profiles_need_boto3_and_say_so(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(urls, "find_spec", lambda name: None)
    monkeypatch.setattr(urls, "AWS_FILE", tmp_path / "credentials")
    assert urls._s3_credentials() == {"skip_signature": True} and not caplog.text
    (tmp_path / "credentials").write_text("[default]")
    assert urls._s3_credentials() == {"skip_signature": True} and "relact[s3]" in caplog.text
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(InputError, match=r"'lab' is read by boto3.*relact\[s3\]") as told:
        open_store("s3://bucket/study.zarr.zip")
    assert "\n" not in str(told.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    assert urls._s3_credentials() == {}


@pytest.fixture(scope="module")
def web(tiny_study, study, tmp_path_factory):
    """A folder to serve, with packages of both forms, with activations and without."""
    folder = tmp_path_factory.mktemp("web")
    pack(tiny_study.path, folder / "tiny.zarr.zip", activations=True)
    pack(tiny_study.path, folder / "tiny.zarr", activations=True)
    pack(study.path, folder / "study.zarr.zip")
    pack(study.path, folder / "study.zarr")
    return folder


@pytest.fixture(scope="module")
def large(embedded_study, tmp_path_factory):
    """A folder to serve, with packages of the scores of a real model."""
    folder = tmp_path_factory.mktemp("large")
    pack(embedded_study.path, folder / "study.zarr.zip")
    pack(embedded_study.path, folder / "study.zarr")
    return folder


def same_answers(url, store):
    for relation in store.relations():
        ours, theirs = (query.top(one, relation=relation, n=20) for one in (url, store))
        pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)


@pytest.mark.parametrize("handler", [Plain, Ranged])
@pytest.mark.parametrize("name", ["study.zarr", "study.zarr.zip"])
def test_a_static_server_is_enough(web, study, handler, name):
    with serving(handler, web) as server:
        same_answers(f"{server.url}/{name}", study)
        data = query.open(f"{server.url}/{name}")["scores/mlp.down"]["off_mean"]
        assert np.array_equal(data.values, study.dataset("scores/mlp.down")["off_mean"].values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("handler", "name", "requests"),
    [(Plain, "study.zarr", 6), (Ranged, "study.zarr", 6), (Ranged, "study.zarr.zip", 4)],
)
def test_top_20_takes_a_handful_of_requests_and_less_than_2_percent_of_the_bytes(
    large, handler, name, requests
):
    path = large / name
    size = (
        path.stat().st_size
        if path.is_file()
        else sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    )
    with serving(handler, large) as server:
        query.top(f"{server.url}/{name}", relation="country_capital", n=20)
    moved = (
        f"{name}: {len(server.paths)} requests, {server.bytes:,} of {size:,} bytes, {server.bytes / size:.2%}"
    )
    print(moved)
    assert len(server.paths) <= requests, server.paths
    assert 0 < server.bytes < 0.02 * size, moved


@pytest.mark.parametrize(("name", "requests"), [("study.zarr", 12), ("study.zarr.zip", 9)])
def test_the_whole_tree_opens_with_few_requests(web, name, requests):
    with serving(Ranged, web) as server:
        tree = query.open(f"{server.url}/{name}")
        assert tree["masks/top-200/mlp.gate"]["mask"].dims == ("relation", "layer", "neuron")
        assert len(server.paths) <= requests, server.paths


def test_what_was_read_once_is_not_fetched_again(web, study, cache):
    with serving(Plain, web) as server:
        url = f"{server.url}/study.zarr"
        same_answers(url, study)
        query.neuron(url, "mlp.up", 3, 4)
        before = len(server.paths)
        same_answers(url, study)
        query.neuron(url, "mlp.up", 3, 4)
        opened = 1 + len(study.relations())
        assert server.paths[before:] == ["/study.zarr/zarr.json"] * opened
        for kept in cache.rglob("*"):
            if kept.is_file():
                kept.write_bytes(b"spoilt")
        same_answers(url, study)


def test_the_cache_stays_within_its_bound(web, cache, monkeypatch):
    monkeypatch.setattr(disk_cache, "CACHE_BYTES", 10_000)
    with serving(Plain, web) as server:
        for _ in range(3):
            with serving(Plain, web) as other:
                query.neuron(f"{other.url}/tiny.zarr", "mlp.up", 0, 0)
        query.top(f"{server.url}/tiny.zarr", relation="size")
    assert len(list((cache / "stores").iterdir())) <= 3


def test_activations_are_read_in_parts(web, tiny_study):
    with serving(Ranged, web) as server:
        for name in ("tiny.zarr", "tiny.zarr.zip"):
            shared = open_store(f"{server.url}/{name}")
            assert shared.missing_blocks() == []
            ours, theirs = (store.columns("mlp.gate", 1, 0, 44) for store in (shared, tiny_study))
            assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_an_archive_on_a_server_without_ranges_is_fetched_whole_only_when_small(web, tiny_study, monkeypatch):
    with serving(Plain, web) as server:
        same_answers(f"{server.url}/tiny.zarr.zip", tiny_study)
        monkeypatch.setattr(archive, "WHOLE", 1000)
        with pytest.raises(StoreError, match=r"tiny\.zarr\.zip.*more than 1000"):
            open_store(f"{server.url}/tiny.zarr.zip")


def test_spaces_and_letters_in_addresses(tiny_study, tmp_path):
    folder = tmp_path / "my störe"
    folder.mkdir()
    pack(tiny_study.path, folder / "a b.zarr.zip")
    with serving(Ranged, tmp_path) as server:
        same_answers(f"{server.url}/my%20st%C3%B6re/a%20b.zarr.zip", tiny_study)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("403/s.zarr", "access is forbidden"),
        ("401/s.zarr.zip", "access is forbidden"),
        ("404/s.zarr", "no such file"),
        ("404/s.zarr.zip", "no such file"),
        ("500/s.zarr", "the server answered 500"),
        ("cut/s.zarr", "the answer was cut off"),
        ("slow/s.zarr", "no answer within 0.5 seconds"),
    ],
)
def test_a_server_that_does_not_answer_well_is_one_line(path, message):
    with serving(Broken) as server:
        started = time.monotonic()
        with pytest.raises(StoreError, match=message) as caught:
            open_store(f"{server.url}/{path}", timeout=0.5)
        assert server.url in str(caught.value) and "\n" not in str(caught.value)
        assert time.monotonic() - started < 10


def test_a_server_that_is_not_there():
    with pytest.raises(StoreError, match="cannot be reached"):
        open_store("http://127.0.0.1:9/s.zarr", timeout=2)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/s.zarr", "cannot open ftp://"),
        ("http:///s.zarr", "no host"),
        ("https://host/s.zarr#part", "with #"),
        ("hf://models/me/x", "not a data set"),
        ("hf://datasets/justone", "not a data set"),
    ],
)
def test_addresses_that_mean_nothing(url, message):
    with pytest.raises(InputError, match=message):
        open_store(url)


def test_truncated_packages(web, tmp_path):
    whole = (web / "tiny.zarr.zip").read_bytes()
    (tmp_path / "cut.zarr.zip").write_bytes(whole[: len(whole) // 2])
    folder = tmp_path / "cut.zarr"
    folder.mkdir()
    (folder / "zarr.json").write_bytes((web / "tiny.zarr" / "zarr.json").read_bytes()[:-100])
    with serving(Ranged, tmp_path) as server:
        for name in ("cut.zarr.zip", "cut.zarr"):
            with pytest.raises(StoreError, match="cut off"):
                open_store(f"{server.url}/{name}")


def test_one_file_that_is_cut_or_changed_is_named(web, tmp_path):
    shutil.copytree(web / "tiny.zarr", tmp_path / "s.zarr")
    chunk = tmp_path / "s.zarr" / "scores" / "mlp.up" / "on_p90" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with serving(Plain, tmp_path) as server:
        opened = open_store(f"{server.url}/s.zarr")
        with pytest.raises(StoreError, match=r"scores/mlp\.up/on_p90/c/0/0/0: damaged: its checksum"):
            opened.dataset("scores/mlp.up")["on_p90"].load()


def test_an_unpacked_store_on_a_server_is_explained(tiny_study):
    with serving(Plain, tiny_study.path.parent) as server, pytest.raises(StoreError, match="relact pack"):
        open_store(f"{server.url}/{tiny_study.path.name}")


# Object stores


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny.zarr.zip", "tiny.zarr"])
def test_pushed_to_an_object_store_queried_there_and_pulled(bucket, tiny_study, tmp_path, name):
    url = f"s3://neurons/some/where/{name}"
    assert push(tiny_study.path, url, activations=True) == url
    keys = [one["Key"] for one in bucket.list_objects_v2(Bucket="neurons")["Contents"]]
    assert all(key.startswith("some/where/tiny.zarr") for key in keys)
    same_answers(url, tiny_study)
    pull(url, tmp_path / "again.zarr")
    for path in tiny_study.path.rglob("*"):
        if path.is_file() and path.name != "zarr.json":
            assert (
                tmp_path / "again.zarr" / path.relative_to(tiny_study.path)
            ).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_the_root_of_a_folder_is_published_last(bucket, tiny_study, monkeypatch):
    put, order = urls.Place.put, []

    def noted(self, key, data):
        order.append(key)
        put(self, key, data)

    monkeypatch.setattr(urls.Place, "put", noted)
    push(tiny_study.path, "s3://neurons/tiny.zarr")
    assert order[-1] == "zarr.json" and "scores/zarr.json" in order[:-1]


@pytest.mark.slow
def test_top_20_from_an_object_store_moves_less_than_2_percent(bucket, large, monkeypatch):
    moved = []
    for kind in ("get", "part"):
        inner = getattr(urls.Place, kind)

        def counted(self, *arguments, inner=inner):
            moved.append(len(raw := inner(self, *arguments)))
            return raw

        monkeypatch.setattr(urls.Place, kind, counted)
    tail = urls.Place.tail
    monkeypatch.setattr(
        urls.Place, "tail", lambda self, *a: (moved.append(len((r := tail(self, *a))[0])), r)[1]
    )
    push(large / "study.zarr.zip", "s3://neurons/study.zarr.zip")
    query.top("s3://neurons/study.zarr.zip", relation="country_capital", n=20)
    size = (large / "study.zarr.zip").stat().st_size
    print(f"s3: {len(moved)} requests, {sum(moved):,} of {size:,} bytes, {sum(moved) / size:.2%}")
    assert 0 < len(moved) <= 4 and 0 < sum(moved) < 0.02 * size


def test_missing_buckets_and_objects_are_one_line(bucket):
    for url in ("s3://neurons/none.zarr", "s3://neurons/none.zarr.zip"):
        with pytest.raises(StoreError, match=f"{url}.*no such file"):
            open_store(url)
    with pytest.raises(StoreError, match=r"s3://no-such-bucket.*no such bucket \(NoSuchBucket\). Make it"):
        open_store("s3://no-such-bucket/s.zarr")


def test_an_archive_is_kept_when_its_name_says_so_and_its_checksum_is_asked(bucket, tiny_study, tmp_path):
    packed = pack(tiny_study.path, tmp_path / "tiny.zarr.zip")
    push(packed.path, "s3://neurons/tiny.zarr.zip")
    with pytest.raises(StoreError, match="SHA-256 is"):
        pull("s3://neurons/tiny.zarr.zip", tmp_path / "copy.zarr.zip", sha256="0" * 64)
    assert not (tmp_path / "copy.zarr.zip").exists()
    pull("s3://neurons/tiny.zarr.zip", tmp_path / "copy.zarr.zip", sha256=packed.sha256)
    assert (tmp_path / "copy.zarr.zip").read_bytes() == packed.path.read_bytes()


def test_a_push_to_no_bucket_is_refused_before_anything_is_packed(bucket, tiny_study, monkeypatch):
    monkeypatch.setattr(publish, "pack", lambda *_, **__: pytest.fail("packed for nothing"))
    with pytest.raises(StoreError, match="no such bucket"):
        push(tiny_study.path, "s3://no-such-bucket/s.zarr")


@pytest.mark.parametrize("name", ["tiny.zarr", "tiny.zarr.zip"])
@pytest.mark.slow
def test_what_is_published_is_replaced_only_when_that_is_said(bucket, tiny_study, study, command, name):
    url = f"s3://neurons/{name}"
    push(tiny_study.path, url)
    code, _, err = command("push", study.path, url)
    assert code == 1 and "is published there already. Replace it with --replace" in err
    assert open_store(url).manifest.model.id == without_path(tiny_study.manifest.model.id)
    assert command("push", study.path, url, "--replace")[0] == 0
    assert open_store(url).manifest.model.id == study.manifest.model.id


@pytest.mark.parametrize("code", urls.CODES)
def test_an_object_store_that_refuses_says_its_reason(code):
    with serving(refusing(code)) as server:
        place = urls.place("s3://neurons/s.zarr")
        options = {
            "endpoint": server.url,
            "access_key_id": "k",
            "secret_access_key": "s",
            "region": "us-east-1",
        }
        objects = S3Store("neurons", **options, client_options={"allow_http": True})
        place = urls.Place(place.shown, place.key, objects, 5.0)
        problem, fix = urls.CODES[code]
        with pytest.raises(StoreError, match=rf"{problem} \({code}\)\. .{fix[1:5]}") as told:
            place.get("zarr.json", 100)
        assert "\n" not in str(told.value)
        if code == "AccessDenied":  # that may be all that is said of an object that is not there
            assert not place.has("zarr.json")
        else:
            with pytest.raises(StoreError, match=problem):
                place.has("zarr.json")


def test_an_unknown_refusal_is_told_in_the_server_s_words():
    with serving(refusing("SlowDownPlease")) as server:
        options = {
            "endpoint": server.url,
            "access_key_id": "k",
            "secret_access_key": "s",
            "region": "us-east-1",
        }
        objects = S3Store("neurons", **options, client_options={"allow_http": True})
        with pytest.raises(StoreError, match=r"access is forbidden \(SlowDownPlease: the reason\)"):
            urls.Place("s3://neurons/s.zarr", "s.zarr", objects, 5.0).get("x", 100)


@pytest.mark.parametrize("query", ["X-Amz-Signature=se%2Fcret&X-Amz-Date=1", "sig=secret"])
def test_a_presigned_address_is_one_archive_and_its_secret_is_not_shown(web, study, tmp_path, query):
    with serving(Ranged, web) as server:
        url = f"{server.url}/study.zarr.zip?{query}"
        same_answers(url, study)
        assert all(query in path for path in server.paths)
        opened = open_store(url)
        assert "secret" not in str(opened.path) and "cret" not in str(opened.path)
        assert pull(url, tmp_path / "s.zarr").joinpath("zarr.json").is_file()
        with pytest.raises(StoreError, match="no such file") as told:
            open_store(f"{server.url}/none.zip?{query}")
        assert "cret" not in str(told.value)


@pytest.mark.parametrize("name", ["STUDY.ZARR.ZIP", "study.zarr.Zip"])
def test_an_archive_in_upper_case(web, study, tmp_path, name):
    shutil.copy(web / "study.zarr.zip", tmp_path / name)
    same_answers(tmp_path / name, study)
    assert pack(study.path, tmp_path / f"again-{name}").sha256
    with serving(Ranged, tmp_path) as server:
        same_answers(f"{server.url}/{name}", study)


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", ["study.zarr", "tiny.zarr"])
def test_what_zip_r_made_of_a_package_is_one(web, study, tiny_study, tmp_path, around, method, name):
    """As Info-ZIP writes it: entries for folders too, compressed or not, with a folder around all or none."""
    target = tmp_path / "made.zip"
    with zipfile.ZipFile(target, "w", method) as made:
        for path in sorted((web / name).rglob("*")):
            made.write(path, path.relative_to(web if around else web / name))
    store = study if name == "study.zarr" else tiny_study
    same_answers(target, store)
    again = unpack(target, tmp_path / "s.zarr")
    if name == "tiny.zarr":
        assert np.array_equal(
            again.chunk("mlp.gate", 0, 0, 0, 8), store.chunk("mlp.gate", 0, 0, 0, 8), equal_nan=True
        )
    assert check(target).ok


@pytest.mark.parametrize("name", ["tiny.zarr", "tiny.zarr.zip", "study.zarr"])
def test_an_intact_package_is_verified_where_it_lies_and_a_damaged_one_is_told(web, tmp_path, command, name):
    path = tmp_path / name
    (shutil.copytree if (web / name).is_dir() else shutil.copy)(web / name, path)
    code, out, _ = command("verify", path)
    assert code == 0 and " 0 damaged" in out
    raw = bytearray(path.read_bytes()) if path.is_file() else None
    if raw is None:
        file = next(file for file in sorted(path.rglob("c/0")) if file.stat().st_size > 100)
        changed = bytearray(file.read_bytes())
        changed[50] ^= 4
        file.write_bytes(changed)
    else:
        raw[1000] ^= 4
        path.write_bytes(raw)
    code, out, err = command("verify", path)
    assert code == 1 and ("damaged" in out or "damaged" in err or "differs" in out)


def test_a_package_is_queried_from_any_folder(web, tmp_path, command, monkeypatch):
    odd = tmp_path / "a b#50%?.zarr"
    shutil.copytree(web / "study.zarr", odd)
    (tmp_path / "link.zarr").symlink_to(odd)
    expected = command("top", web / "study.zarr", "--relation", "country_capital")
    assert expected[0] == 0
    monkeypatch.chdir(odd)
    for where in (odd, f"{odd}/", tmp_path / "link.zarr", ".", f"../{odd.name}"):
        assert command("top", where, "--relation", "country_capital") == expected


@pytest.mark.parametrize("stage", ["score", "ablate", "verify", "select"])
def test_whoever_needs_a_folder_says_to_pull_first(command, stage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(
        stage, "s3://neurons/s.zarr", *(("--k", 3) if stage in ("ablate", "select") else ())
    )
    assert code == 1 and "s3://neurons/s.zarr: only a store on this machine's disks" in err
    assert "Pull it first: `relact pull URL FOLDER`" in err and list(tmp_path.iterdir()) == []


def test_only_places_that_take_files_are_pushed_to(tiny_study):
    with pytest.raises(InputError, match="cannot publish"):
        push(tiny_study.path, "https://host/s.zarr")


# The hub


@pytest.fixture
def hub(monkeypatch):
    """A hub on loopback, and a token for it."""
    with serving(Hub) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        yield server


@pytest.mark.parametrize("name", ["tiny.zarr.zip", "tiny.zarr"])
def test_a_data_set_on_the_hub(hub, tiny_study, tmp_path, name):
    url = f"hf://datasets/me/neurons/{name}"
    push(tiny_study.path, url)
    same_answers(url, tiny_study)
    pull(url, tmp_path / "again.zarr")
    assert any(
        path.endswith("/datasets/me/neurons/resolve/main/README.md") or "README.md" in path
        for path in hub.paths
    )
    reads = [path for path in hub.paths if f"/resolve/main/{name}" in path]
    assert reads and all(path.endswith("Bearer hf_secret") for path in reads)
    with pytest.raises(StoreError, match="no such file"):
        open_store("hf://datasets/me/neurons/none.zarr")


# Commands


def test_the_commands_take_addresses(web, tmp_path, command):
    with serving(Ranged, web) as server:
        url = f"{server.url}/tiny.zarr.zip"
        code, out, _ = command("top", url, "--relation", "size", "-n", 2, "--json")
        assert code == 0 and out.count('"average_precision"') == 2
        assert command("info", url)[0] == command("neuron", url, "mlp.up", 0, 1)[0] == 0
        assert (
            command("pull", url, tmp_path / "s.zarr")[0] == 0 and command("info", tmp_path / "s.zarr")[0] == 0
        )
        code, _, err = command("top", f"{server.url}/none.zarr.zip", "--relation", "size")
        assert code == 1 and err.count("\n") == 1 and "no such file" in err
