"""Shared by the tests: the embedded model, small random ones, and finished studies of them.

Heavy libraries are imported by the fixtures: the process that hands out the tests to others needs none.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest
from helpers import disk
from helpers.disk import made_once

import relact
from relact.cli import app

if TYPE_CHECKING:
    import pandas as pd

    from relact.models.loading import LoadedModel
    from relact.store.local import LocalStore

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported; each worker has a core
    os.environ["OMP_NUM_THREADS"] = "1"
disk.keep_in_memory()
disk.do_not_wait()

RELATIONS = ("country_capital", "adj_comparative", "word_first_letter")

# Models and studies. Tests must not change them


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    """The embedded model, loaded once."""
    from relact.models import loading

    return loading.load("smollm2")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A random model that is small and says letters, under a name as the embedded one has it."""
    from helpers import tiny

    from relact.models import loading

    loaded = loading.load(str(made_once(tmp_path_factory, "talker", tiny.save_talker)))
    return replace(loaded, id="talker", revision="sha256:" + "0" * 64)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny random Llama with a byte tokenizer."""
    from helpers import tiny

    return made_once(tmp_path_factory, "llama", tiny.save)


@pytest.fixture(scope="session")
def prompts() -> pd.DataFrame:
    """Few-shot prompts of three relations: 12 to identify and 6 to test each."""
    return relact.prompts(RELATIONS, shots=3, per_relation=12, test_size=6)


@pytest.fixture(scope="session")
def tiny_prompts() -> pd.DataFrame:
    """Zero-shot prompts of two made-up relations, for models that know nothing."""
    from helpers import everything

    return everything.prompts()


@pytest.fixture(scope="session")
def embedded_study(
    smollm2: LoadedModel, prompts: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> LocalStore:
    """A finished study of the embedded model: three blocks of float32, top-200, two random controls.

    Super-units are looked for with one sentence: all the text takes three times as long as the rest.
    """
    from relact.ablating import perplexity

    sentence = perplexity.plain_text()[0].partition(".")[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perplexity, "plain_text", lambda: [sentence])
        return finished(tmp_path_factory, "embedded", smollm2, lambda: prompts)


@pytest.fixture(scope="session")
def study(model: LoadedModel, prompts: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """The same of the small random model, which knows two thirds of the answers."""
    from helpers import tiny

    return finished(tmp_path_factory, "study", model, lambda: tiny.knowing(model, prompts))


@pytest.fixture(scope="session")
def tiny_study(
    tiny_folder: Path, tiny_prompts: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> LocalStore:
    """A finished study of the tiny model: all sites in four blocks of float16, top-12."""
    capture = relact.CaptureOptions(sites="all", block=5)
    return finished(tmp_path_factory, "tiny", str(tiny_folder), lambda: tiny_prompts, k=12, capture=capture)


@pytest.fixture(scope="session")
def everything(
    tiny_folder: Path, tiny_prompts: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> LocalStore:
    """A store of the tiny model that holds every kind of result."""
    from helpers import everything

    from relact.store import local

    def make(path: Path) -> None:
        everything.make(path, str(tiny_folder), tiny_prompts)

    return local.open(made_once(tmp_path_factory, "everything.zarr", make))


def finished(
    factory: pytest.TempPathFactory,
    name: str,
    model: LoadedModel | str,
    prompts: Callable[[], pd.DataFrame],
    k: int = 200,
    capture: relact.CaptureOptions | None = None,
) -> LocalStore:
    """A store that is captured, scored, selected and ablated, by whichever worker asks first."""
    from relact.store import local

    capture = capture or relact.CaptureOptions(dtype="float32", block=16)
    ablate = relact.AblateOptions(seeds=(0, 1))

    def make(path: Path) -> None:
        relact.run(prompts(), model=model, store=path, k=k, capture=capture, ablate=ablate)

    return local.open(made_once(factory, f"{name}.zarr", make))


@pytest.fixture
def prompt_file(tiny_prompts: pd.DataFrame, tmp_path: Path) -> Path:
    """The tiny prompts in a file."""
    from relact.relations import table

    return table.write(tiny_prompts, tmp_path / "prompts.parquet")


# What is imported stays


def pytest_collection_finish() -> None:
    """The collector of garbage need not look again and again at the million objects of the libraries."""
    gc.collect()
    gc.freeze()


# Commands


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int | str, str, str]]:
    """Run a command in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int | str, str, str]:
        monkeypatch.setattr(sys, "argv", ["relact", *map(str, arguments)])
        code: int | str = 0
        try:
            app.main()
        except SystemExit as end:
            code = end.code or 0
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture(name="relact")
def the_command(
    command: Callable[..., tuple[int | str, str, str]],
) -> Callable[..., tuple[int | str, str, str]]:
    """The same, by its name."""
    return command


# An object store


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[str]:
    """Address of an S3-compatible server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(bucket_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket of an S3-compatible server, with credentials in the environment."""
    import boto3

    for name, value in {
        "ACCESS_KEY_ID": "key",
        "SECRET_ACCESS_KEY": "secret",
        "REGION": "us-east-1",
        "ENDPOINT_URL": bucket_server,
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="neurons")
    yield client
    urlopen(Request(f"{bucket_server}/moto-api/reset", method="POST")).close()
