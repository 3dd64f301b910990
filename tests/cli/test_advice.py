"""Advice is tried: what a line says is to be done is done, and then the command works."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace

import pytest
from helpers import sample, tiny

import relact as library
from relact.errors import IdentityError
from relact.store import local

MOST = 4  # commands on the way


@pytest.fixture
def follow(relact):
    """Run a command, and whatever its lines say, until it works; returns the commands that were said."""

    def run(*words):
        said = []
        for _ in range(MOST):
            code, _, err = relact(*words)
            if code == 0:
                return said
            lines = [line for line in err.splitlines() if line.startswith("relact: ")]
            assert code == 1 and len(lines) == 1, err
            said.append(re.search(r"`relact ([^`]+)`", lines[0])[1])
            command, *rest = shlex.split(said[-1])
            assert relact(command, *rest)[0] == 0, said
        raise AssertionError(said)

    return run


@pytest.fixture
def captured(tmp_path):
    """A store with nothing but its capture, at a path that a shell would cut."""
    return sample.full(tmp_path / "a store.zarr", 9).path


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        ("top STORE --relation size", ["score"]),
        ("neuron STORE attn.k 1 7", ["score"]),
        ("export STORE OUT --format selfcond", ["score"]),
        ("export STORE OUT --format json", ["score", "select"]),
        ("compare STORE", ["score", "select"]),
        ("report STORE -o OUT.html", ["score"]),
        ("select STORE --k 3", ["score"]),
    ],
)
def test_what_is_not_there_is_made_as_the_line_says(follow, captured, tmp_path, asked, steps):
    words = [
        {"STORE": str(captured)}.get(word, word.replace("OUT", str(tmp_path / "out")))
        for word in asked.split()
    ]
    said = follow(*words)
    assert [line.split()[0] for line in said] == steps


@pytest.mark.parametrize(
    "asked",
    [
        "effects STORE --ablation best",
        "export STORE OUT --format parquet --ablation best",
        "judge STORE best",
        "report STORE --mask best -o OUT.html",
        "compare STORE --mask best",
        "export STORE OUT --format json --mask best",
        "select STORE --of best --only",
        "ablate STORE --mask best",
        "patch STORE --mask best",
        "generate STORE size --mask best",
    ],
)
def test_a_name_that_is_not_there_is_one_of_those_that_are(relact, tiny_study, tmp_path, asked):
    """The line lists them, and with one of them the same command has nothing to say of it."""
    words = [
        {"STORE": str(tiny_study.path)}.get(word, word.replace("OUT", str(tmp_path / "o.parquet")))
        for word in asked.split()
    ]
    code, _, err = relact(*words)
    lines = [line for line in err.splitlines() if line.startswith("relact: ")]
    assert code == 1 and len(lines) == 1
    there = re.search(r"no (?:mask|ablation) 'best', there are: (.+)\. Name one of them", lines[0])[1]
    assert (
        there.split(", ")[0]
        in (tiny_study.children("masks"), tiny_study.children("ablations"))["ablation 'best'" in lines[0]]
    )


def test_an_ablation_that_is_not_there_is_made_of_the_mask_that_is(relact, follow, tiny_study, tmp_path):
    path = shutil.copytree(tiny_study.path, tmp_path / "s.zarr")
    for name in tiny_study.children("ablations"):
        local.drop(path, f"ablations/{name}")
    assert follow("export", path, tmp_path / "a.parquet", "--format", "parquet") == [
        f"ablate {path} --mask top-12"
    ]


def test_a_tokenizer_larger_than_the_vocabulary_is_one_line_until_it_is_the_models(
    relact, prompt_file, tmp_path
):
    folder = tiny.save(tmp_path / "model")
    larger = tiny.tokenizer()
    larger.add_tokens([*(f"<{number}>" for number in range(tiny.VOCABULARY)), "thing"])
    larger.save_pretrained(folder)
    capture = ("capture", folder, prompt_file, tmp_path / "s.zarr", "--sites", "mlp.down")
    code, _, err = relact(*capture)
    assert code == 1 and "Use the tokenizer that belongs to the model" in err.splitlines()[-1]
    assert "; the model embeds 300" in err and not (tmp_path / "s.zarr").exists()
    tiny.tokenizer().save_pretrained(folder)
    assert relact(*capture)[0] == 0
    assert library.open(tmp_path / "s.zarr")["activations/mlp.down"].sizes["prompt"] == 16


def test_what_is_not_there_is_answered_with_what_is(relact, tiny_study, tmp_path):
    for site in ("mlp.foo", "mlp"):
        _, _, err = relact("neuron", tiny_study.path, site, 0, 0)
        assert f"no site '{site}' in this store" in err and ", ".join(tiny_study.sites) in err
    code, _, err = relact("info", tmp_path / "nope.zarr")
    assert code == 1 and "hub" not in err and "no such store" in err
    code, _, err = relact("report", tiny_study.path, "-o", tmp_path / "page.txt")
    assert code == 1 and ".html" in err and not (tmp_path / "page.txt").exists()
    for asked in ("foo", "attribution_foo"):
        code, _, err = relact("score", tiny_study.path, "--statistics", asked)
        assert code == 1 and f"no statistic '{asked}'" in err and "probe" in err and "attribution_" in err
    (tmp_path / "rivers.csv").write_text("subject,object\nNile,Egypt\nSeine,France\n")
    _, _, err = relact("capture", "smollm2", tmp_path / "rivers.csv", tmp_path / "n.zarr")
    assert "relact prompts FILE" in err


def test_another_studys_store_is_told_by_its_prompts(tiny_study):
    manifest = tiny_study.manifest
    prompts = {**manifest.prompts, "test": {**manifest.prompts["test"], "digest": "0" * 32}}
    other = replace(manifest, prompts=prompts, capture=replace(manifest.capture, pool="max"))
    with pytest.raises(IdentityError, match=r"it holds other prompts: .*prompts\.test\.digest"):
        local.require_identity(tiny_study, other)
