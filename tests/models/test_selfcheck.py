"""What a model is asked when it is loaded, and what is done differently where it fails."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import shrunk, tiny

from relact.errors import InputError, ModelError
from relact.models import loading, noted, selfcheck
from relact.models.batches import Ways, schedule
from relact.models.selfcheck import Shortcuts

IDS = list(range(5, 60))


def _saved(folder, kind, **changes):
    shrunk.model(kind, **changes).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "fails"), [("mamba", True), ("jamba", True), ("llama", False), ("mamba2", False)]
)
def test_a_cache_that_changes_values_is_found(kind, fails):
    """transformers' own CPU code of some state spaces goes wrong on several tokens after a cache."""
    model = shrunk.model(kind)
    found = selfcheck.check(model, IDS, None)
    row = torch.tensor([IDS[: selfcheck.LENGTH]])
    whole = model.base_model(input_ids=row, use_cache=False)[0]
    name = "cache_params" if kind.startswith("mamba") else "past_key_values"
    from relact.models.forward import advance

    _, cache = advance(model.base_model, row[:, : selfcheck.PREFIX])
    second, _ = advance(model.base_model, row[:, selfcheck.PREFIX :], cache=cache)
    apart = (second[0] - whole[:, selfcheck.PREFIX :]).abs().max()
    assert (float(apart) > 1e-3) == fails, name
    assert found.split != fails and found.padded
    assert any("no prefix is shared" in note for note in found.notes()) == fails


def test_padding_that_changes_what_sparse_attention_picks_is_found():
    """It picks all of a short prompt: what padding does to a long one shows when few tokens are picked."""
    model = shrunk.model("glm_moe_dsa")
    before = [part.index_topk for part in model.modules() if hasattr(part, "index_topk")]
    found = selfcheck.check(model, IDS, None)
    assert not found.padded and found.stepped
    assert any("padding changes values" in note for note in found.notes())
    assert before and before == [part.index_topk for part in model.modules() if hasattr(part, "index_topk")]


def test_it_is_remembered_by_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setenv("RELACT_CACHE", str(tmp_path / "cache"))
    folder, calls = _saved(tmp_path / "m", "llama"), []
    check = selfcheck.check
    monkeypatch.setattr(selfcheck, "check", lambda *given: calls.append(1) or check(*given))
    first, second = loading.load(folder), loading.load(folder)
    assert len(calls) == 1 and first.shortcuts == second.shortcuts
    loading.load(_saved(tmp_path / "other", "llama", intermediate_size=40))
    assert len(calls) == 2


def test_what_fails_is_left_out_of_the_batches():
    shared = [1] * 70
    rows = [[*shared, *[2] * n] for n in (3, 5, 3, 9)]
    usual = list(schedule(rows, 512))
    assert any(batch.prefix for batch in usual)
    whole = list(schedule(rows, 512, Ways(whole=True)))
    assert [batch.prefix for batch in whole] == [()] and sorted(whole[0].rows) == [0, 1, 2, 3]
    even = list(schedule(rows, 512, Ways(whole=True, even=True)))
    assert sorted(sorted(batch.rows) for batch in even) == [[0, 2], [1], [3]]


def test_beyond_the_switch_of_longrope_prompts_run_whole_and_apart():
    shared = [1] * 40
    rows = [[*shared, *[2] * n] for n in (3, 5, 20, 21)]
    batches = list(schedule(rows, 4096, Ways(switch=50)))
    beyond = [batch for batch in batches if set(batch.rows) & {2, 3}]
    assert [sorted(batch.rows) for batch in beyond] == [[2, 3]] and beyond[0].prefix == ()


def _phi(**changes):
    scaling = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 20,
    }
    return tiny.model(
        "phi3", rope_parameters=scaling, original_max_position_embeddings=20, pad_token_id=0, **changes
    )


def test_the_switch_is_read_and_batches_across_it_equal_prompts_alone(tmp_path):
    from relact.capturing.options import CaptureOptions
    from relact.capturing.passes import capture_rows

    model = _phi()
    shortcuts = Shortcuts(tolerance=1e-3, switch=selfcheck._switch(model.config))
    assert shortcuts.switch == 20
    loaded = loading.LoadedModel(
        model, tiny.tokenizer(), "m", None, "", "", "float32", "phi3", shortcuts=shortcuts
    )
    generator = torch.Generator().manual_seed(2)
    shared = torch.randint(3, 250, (14,), generator=generator).tolist()
    rows = [[*shared, *torch.randint(3, 250, (n,), generator=generator).tolist()] for n in [4] * 12 + [9, 12]]
    seen = {}

    class Taker:
        def put(self, stream, layer, places, values):
            for place, value in zip(places.tolist(), values, strict=True):
                seen[place, stream, layer] = torch.from_numpy(value.copy())

    settings = CaptureOptions(sites="mlp.hidden", dtype="float32", block=64).record(model.config)
    assert sum(capture_rows(loaded, rows, Taker(), settings)) == len(rows)
    together = dict(seen)
    for number, row in enumerate(rows):
        seen.clear()
        list(capture_rows(loaded, [row], Taker(), settings))
        for (_, stream, layer), value in seen.items():
            torch.testing.assert_close(together[number, stream, layer], value, rtol=1e-4, atol=1e-5)


def test_what_is_left_out_is_told():
    found = Shortcuts(padding=0.0, splitting=None, stepping=0.4, tolerance=1e-3).notes()
    assert [note.partition(":")[0] for note in found] == [
        "no prefix is shared",
        "answers are read anew for every token",
    ]
    assert "does not run" in found[0] and "changes values by 0.4 of their size" in found[1]


def test_a_tokenizer_that_appends_an_end_leaves_prompts_open(tmp_path):
    from tokenizers import processors

    folder = tmp_path / "m"
    tiny.save(folder)
    ending = tiny.tokenizer()
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    ending.save_pretrained(folder)
    loaded = loading.load(str(folder))
    assert any("appends </s>" in note for note in loaded.notes)
    plain = tiny.tokenizer()("ab")["input_ids"]
    assert loading.encode(loaded, ["ab", "ab</s>"]) == [plain, [*plain, 2]]


def test_tokens_beyond_the_embedding_are_refused(tmp_path):
    folder = tmp_path / "m"
    tiny.save(folder, vocab_size=60)
    with pytest.raises(InputError, match=r"token \d+ .*; the model embeds 60"):
        loading.load(str(folder))


def test_weights_of_layers_that_the_configuration_lacks_are_refused(tmp_path):
    folder = tmp_path / "m"
    tiny.save(folder, "llama/biased")
    config = json.loads((folder / "config.json").read_text())
    config["attention_bias"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"12 weights of layers.*k_proj\.bias|o_proj\.bias"):
        loading.load(str(folder))
    config |= {"attention_bias": True, "num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"weights of layers.*layers\.2\."):
        loading.load(str(folder))


def test_a_family_of_the_users_own_is_checked_when_it_is_loaded(tmp_path, monkeypatch):
    folder = tmp_path / "m"
    _saved(folder, "doge")  # as any type that the table would lack
    from relact import sites
    from relact.sites import table

    monkeypatch.setattr(table, "_BY_NAME", {k: v for k, v in table._BY_NAME.items() if k != "doge"})
    monkeypatch.setattr(sites, "KNOWN", tuple(name for name in sites.KNOWN if name != "doge"))
    with pytest.raises(ModelError, match="RELACT_FAMILIES"):
        loading.load(str(folder))
    rows = tmp_path / "families.toml"
    monkeypatch.setenv("RELACT_FAMILIES", str(rows))
    rows.write_text('[[family]]\nnames = ["doge"]\nlike = "llama"\n')
    assert loading.load(str(folder)).widths["mlp.up"] == 44
    rows.write_text('[[family]]\nnames = ["doge"]\nlike = "phi3"\n')
    with pytest.raises(ModelError, match=r"no module mlp\.gate_up_proj"):
        loading.load(str(folder))
    for text, problem in (
        ('[[family]]\nnames = ["doge"]\nlike = "lama"\n', "no family 'lama'"),
        ('[[family]]\nnames = ["llama"]\nlike = "phi3"\n', "llama is in the table already"),
        ('[[family]]\nname = "doge"\n', "other keys"),
        ("[[family", "cannot be read"),
    ):
        rows.write_text(text)
        with pytest.raises(InputError, match=problem):
            loading.load(str(folder))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True},
            "values depend on which prompts run together",
        ),
        ({"quant_method": "gptq", "bits": 4}, "gptq to 4 bits"),
    ],
)
def test_quantisation_is_named_and_in_the_identity(settings, said):
    from relact.models import fingerprint

    model = tiny.model()
    before = fingerprint.of_model(model)
    assert noted.quantised_by(model) is None
    model.config.quantization_config = settings
    assert said in noted.quantised_by(model)
    assert fingerprint.of_model(model) != before
