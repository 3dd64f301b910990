"""What `run` makes its prompts of: facts, or a prompt table as it is."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers.facts import relation

import relact
from relact.ablating.options import AblateOptions, PatchOptions
from relact.ablating.speaking import GenerateOptions
from relact.errors import InputError
from relact.relations import prompts as tables
from relact.relations import table
from relact.relations.options import PromptOptions
from relact.store import local
from relact.studies import presets
from relact.studies.presets import Recipe
from relact.studies.run import table_of


def test_a_prompt_table_is_taken_as_it_is(tmp_path):
    """Its test prompts, form and examples; not facts to make other prompts of."""
    made = tables.prompts([relation(40)], shots=2, test_size=5, templates="all", form="paper", seed=3)
    path = table.write(made, tmp_path / "p.parquet")
    pd.testing.assert_frame_equal(table_of([path], Recipe()), made)
    pd.testing.assert_frame_equal(table_of([str(path)], Recipe(prompts=PromptOptions(seed=7))), made)
    pd.testing.assert_frame_equal(table_of([path], presets.PAPER), made)


def test_what_a_prompt_table_does_not_allow_is_refused(tmp_path):
    path = table.write(tables.prompts([relation()]), tmp_path / "p.csv")
    with pytest.raises(InputError, match=r"p\.csv: a prompt table is a study's prompts, all of them"):
        table_of([path, "country_capital"], Recipe())
    for options in (PromptOptions(shots=3), PromptOptions(language="de"), PromptOptions(per_relation=9)):
        with pytest.raises(InputError, match=r"p\.csv: a prompt table is taken as it is"):
            table_of([path], Recipe(prompts=options))


def test_the_command_runs_a_prompt_table_and_names_what_it_drops(command, tiny_folder, prompt_file, tmp_path):
    few = ("--model", tiny_folder, "--k", 5, "--seeds", 1, "--sites", "mlp.down")
    code, _, _ = command("run", prompt_file, "--store", tmp_path / "s.zarr", *few)
    stored = local.open(tmp_path / "s.zarr")
    given = table.read(prompt_file)
    assert code == 0
    for split in ("identify", "test"):
        assert stored.prompts(split)["text"].tolist() == given[given["split"] == split]["text"].tolist()
    code, _, err = command("run", prompt_file, "--shots", 1, "--store", tmp_path / "t.zarr", *few)
    assert code == 1 and "a prompt table is taken as it is" in err
    named = ["r"] * 12 + ["q"] * 12 + ["tiny"]
    facts = pd.DataFrame({"relation": named, "subject": [f"s{at}" for at in range(25)]})
    facts.assign(object=facts["subject"] + "o", template="{} is").to_csv(tmp_path / "f.csv", index=False)
    asked = ("run", tmp_path / "f.csv", "--store", tmp_path / "t.zarr", *few, "--dry-run")
    code, _, err = command(*asked)
    assert code == 0 and "relact: relation tiny is dropped: 1 usable facts are too few" in err
    code, _, err = command(*asked, "--strict")
    assert code == 1 and "relation tiny: 1 usable facts are too few" in err


@pytest.fixture(scope="module")
def two() -> pd.DataFrame:
    return tables.prompts([relation(12), relation(12, name="s")], test_size=2)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"ablate": {"seeds": 2}}, r"ablate: .* no dict\. Give relact\.AblateOptions\(...\)"),
        ({"capture": AblateOptions()}, r"capture: .* no AblateOptions\. Give relact\.CaptureOptions"),
        ({"k": 0}, r"k = 0 of \d+ neurons"),
        ({"k": 10**9}, r"k = 1000000000 of \d+ neurons"),
        (
            {"ablate": AblateOptions(sites="attn")},
            "no site of attn will have average_precision. Use mlp",
        ),
        ({"ablate": AblateOptions(statistic="auroc")}, "will have auroc. Add it to the scores"),
        ({"ablate": AblateOptions(by="attribution")}, "will have attribution_z"),
        ({"scores": relact.ScoreOptions(relations=["t"])}, "no prompts of relation t"),
        ({"scores": relact.ScoreOptions(statistics=["guess"])}, "no statistic 'guess'"),
        ({"only": "r"}, "all prompts belong to 'r': nothing to tell it from"),
    ],
)
def test_what_a_later_step_refuses_is_refused_before_the_first(two, tiny_folder, tmp_path, wrong, said):
    only = wrong.get("only")
    table = two[two["relation"] == only] if only else two
    asked = {name: value for name, value in wrong.items() if name != "only"}
    with pytest.raises(InputError, match=said):
        relact.run(table, model=str(tiny_folder), store=tmp_path / "s.zarr", **asked)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("options", [AblateOptions, PatchOptions, GenerateOptions])
@pytest.mark.parametrize("seeds", [2, "2", 1.5, [0.5], [True, "a"]])
def test_seeds_are_numbers_one_by_one(options, seeds):
    with pytest.raises(InputError, match=r"seeds: .*range"):
        options(seeds=seeds)
