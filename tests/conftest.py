"""Shared by the tests: the embedded model, small random ones, and finished studies of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported; each worker has a core
    os.environ["OMP_NUM_THREADS"] = "1"

import pandas as pd
import pytest
from helpers import disk, tiny
from helpers.disk import made_once

import relact
from relact.cli import app
from relact.models import loading
from relact.relations import prompts as prompt_tables
from relact.relations import sources, table
from relact.store import local
from relact.store.local import LocalStore

disk.do_not_wait()

RELATIONS = ("country_capital", "adj_comparative", "word_first_letter")


@pytest.fixture(scope="session")
def smollm2() -> loading.LoadedModel:
    """The embedded model, loaded once."""
    return loading.load("smollm2")


@pytest.fixture(scope="session")
def prompts() -> pd.DataFrame:
    """Few-shot prompts of three relations: 12 to identify and 6 to test each."""
    relations = [sources.load(name)[0] for name in RELATIONS]
    return prompt_tables.prompts(relations, shots=3, per_relation=12, test_size=6)


def finished(model: loading.LoadedModel, prompts: pd.DataFrame, path: Path) -> None:
    """Make a study: captured in three blocks of float32, scored, selected, ablated."""
    capture, ablate = relact.CaptureOptions(dtype="float32", block=16), relact.AblateOptions(seeds=(0, 1))
    relact.run(prompts, model=model, store=path, k=200, capture=capture, ablate=ablate)


@pytest.fixture(scope="session")
def embedded_study(
    smollm2: loading.LoadedModel, prompts: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> LocalStore:
    """A finished study of the embedded model. Tests must not change it."""

    def make(path: Path) -> None:
        finished(smollm2, prompts, path)

    return local.open(made_once(tmp_path_factory, "embedded.zarr", make))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> loading.LoadedModel:
    """A random model that is small and says letters, under a name as the embedded one has it."""
    loaded = loading.load(str(made_once(tmp_path_factory, "talker", tiny.save_talker)))
    return replace(loaded, id="talker", revision="sha256:" + "0" * 64)


@pytest.fixture(scope="session")
def study(
    model: loading.LoadedModel, prompts: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> LocalStore:
    """A finished study of the same form of that model, which knows two thirds of the answers.
    Tests must not change it.
    """

    def make(path: Path) -> None:
        finished(model, tiny.knowing(model, prompts), path)

    return local.open(made_once(tmp_path_factory, "study.zarr", make))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny random Llama with a byte tokenizer."""
    return made_once(tmp_path_factory, "llama", tiny.save)


@pytest.fixture(scope="session")
def tiny_prompts() -> pd.DataFrame:
    """Zero-shot prompts of two made-up relations, for models that know nothing."""
    rows = [
        {
            "text": f"{relation} of thing {number} is",
            "relation": relation,
            "subject": f"thing {number}",
            "object": str(number),
            "answers": [str(number)],
            "template": f"{relation} of {{}} is",
            "language": "en",
            "split": "identify" if number < 8 else "test",
            "shots": 0,
        }
        for relation in ("size", "colour")
        for number in range(11)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def prompt_file(tiny_prompts: pd.DataFrame, tmp_path: Path) -> Path:
    """Those prompts in a file."""
    return table.write(tiny_prompts, tmp_path / "prompts.parquet")


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


@pytest.fixture(scope="session")
def tiny_study(
    tiny_folder: Path, tiny_prompts: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> LocalStore:
    """A finished study of the tiny model, all sites in four blocks of float16. Tests must not change it."""
    capture, ablate = relact.CaptureOptions(sites="all", block=5), relact.AblateOptions(seeds=(0, 1))

    def make(path: Path) -> None:
        relact.run(tiny_prompts, model=str(tiny_folder), store=path, k=12, capture=capture, ablate=ablate)

    return local.open(made_once(tmp_path_factory, "tiny.zarr", make))


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
