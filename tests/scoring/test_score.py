"""Scores of a real study equal scikit-learn's, neuron by neuron,
and depend on nothing but the activations.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager

import distributed
import numpy as np
import pytest
import torch
import xarray as xr
from helpers import tiny
from sklearn.metrics import average_precision_score

from relact import kernels, schema
from relact.capturing.capture import capture
from relact.errors import BudgetError, InputError, ModelError, NumericError, StoreError
from relact.kernels.statistics import BUILT_IN
from relact.schema import STATISTICS
from relact.scoring import schedulers
from relact.scoring.score import labels_of, run_task, score, shape_of
from relact.store import blocks, local


@pytest.fixture
def captured(tiny_folder, tiny_prompts, tmp_path):
    """A captured store of the tiny model, not scored."""
    return capture(str(tiny_folder), tiny_prompts, tmp_path / "s.zarr", dtype="float32", block=5)


@pytest.mark.slow
def test_average_precision_of_the_embedded_model_equals_scikit_learn(embedded_study):
    study = embedded_study
    relation_of = study.prompts(schema.IDENTIFY).relation.to_numpy()
    generator = np.random.default_rng(0)
    tree = xr.open_datatree(study.path, engine="zarr", consolidated=False)
    for site in study.layouts:
        activation = tree[f"activations/{site}"]["activation"].values
        stored = tree[f"scores/{site}"]["average_precision"]
        for _ in range(40):
            layer, neuron = (int(generator.integers(size)) for size in activation.shape[1:])
            for relation in stored["relation"].values:
                expected = average_precision_score(relation_of == relation, activation[:, layer, neuron])
                assert float(stored.sel(relation=relation, layer=layer, neuron=neuron)) == pytest.approx(
                    expected, abs=1e-6
                )


def test_ties_signed_zeros_and_constant_columns(captured):
    """Columns written by hand, so that every special case is there."""
    generator = np.random.default_rng(1)
    lay = captured.layouts["mlp.up"]
    values = generator.integers(-2, 3, (captured.n_prompts, lay.width)).astype(np.float32)  # many ties
    values[:, 0] = 0.5
    values[:, 1] = np.where(generator.random(captured.n_prompts) < 0.5, -0.0, 0.0)
    values[:, 2] = np.where(generator.random(captured.n_prompts) < 0.5, -0.0, 1.0)
    rewrite(captured, "mlp.up", 1, values)
    score(captured)
    stored = captured.dataset("scores/mlp.up")["average_precision"]
    relation_of = captured.prompts(schema.IDENTIFY).relation.to_numpy()
    for relation in captured.relations():
        expected = [average_precision_score(relation_of == relation, column) for column in values.T]
        np.testing.assert_allclose(stored.sel(relation=relation, layer=1).values, expected, atol=1e-6)
    np.testing.assert_allclose(stored.sel(layer=1, neuron=[0, 1]).values, 0.5)


def rewrite(captured, site, layer, values):
    """Replace one layer of one site in every block, commits included."""
    for block in range(captured.n_blocks):
        first, last = captured.rows_of(block)
        buffer = captured.buffer()
        rows = np.arange(last - first)
        for name, lay in captured.layouts.items():
            for number in range(lay.n_layers):
                spans = range(0, lay.width, lay.span)
                old = [captured.columns(name, number, start, start + lay.span)[block] for start in spans]
                buffer.put(name, number, rows, np.concatenate(old, axis=1))
        buffer.put(site, layer, rows, values[first:last])
        blocks.write_block(captured.path, captured.log, block, first, last, buffer)


def test_every_statistic_follows_its_definition(study):
    relation_of = study.prompts(schema.IDENTIFY).relation.to_numpy()
    activation = study.dataset("activations/mlp.gate")["activation"].values.astype(np.float64)
    scores = study.dataset("scores/mlp.gate")
    assert set(STATISTICS) <= set(scores.data_vars)
    for relation in study.relations():
        on, off = activation[relation_of == relation], activation[relation_of != relation]
        for name, expected in {
            "on_p50": np.percentile(on, 50, axis=0),
            "on_p90": np.percentile(on, 90, axis=0),
            "off_p50": np.percentile(off, 50, axis=0),
            "off_mean": off.mean(axis=0),
        }.items():
            np.testing.assert_allclose(
                scores[name].sel(relation=relation).values, expected, rtol=1e-5, atol=1e-7
            )


def test_statistics_that_compare_relations_do_not_depend_on_which_are_scored(study, tmp_path):
    """Margin and z are against all relations of the store, scored or not, kept from before or not."""
    shutil.copytree(study.path, tmp_path / "s.zarr")
    names, statistics = study.relations(), ["d_prime", "margin", "z", "auroc"]
    whole = score(tmp_path / "s.zarr", statistics=statistics).dataset("scores/mlp.up").load()
    shutil.rmtree(tmp_path / "s.zarr" / "scores")
    some = score(tmp_path / "s.zarr", statistics=statistics, relations=names[:1], negatives=1)
    part = some.dataset("scores/mlp.up").load()
    np.testing.assert_allclose(part["margin"], whole["margin"].sel(relation=names[:1]), rtol=1e-6)
    np.testing.assert_allclose(part["z"], whole["z"].sel(relation=names[:1]), rtol=1e-6)
    assert not np.allclose(part["d_prime"], whole["d_prime"].sel(relation=names[:1]))
    more = score(tmp_path / "s.zarr", statistics=statistics, relations=names[::-1], negatives=1)
    again = more.dataset("scores/mlp.up").load().sel(relation=names)
    np.testing.assert_allclose(again["margin"], whole["margin"], rtol=1e-6)
    relation_of = study.prompts(schema.IDENTIFY).relation.to_numpy()
    activation = study.dataset("activations/mlp.up")["activation"].values.astype(np.float64)
    for name in names:
        on, off = activation[relation_of == name], activation[relation_of != name]
        expected = (on.mean(0) - off.mean(0)) / np.sqrt((on.var(0) + off.var(0)) / 2)
        np.testing.assert_allclose(whole["d_prime"].sel(relation=name), expected, rtol=1e-4, atol=1e-6)


def test_workers_and_memory_do_not_change_a_bit(study, tmp_path):
    results = []
    tight = max(shape_of(study, site, 3, len(STATISTICS), workers=3).memory(64) for site in study.layouts)
    for workers, memory in ((1, "4GiB"), (3, tight)):
        copy = tmp_path / f"w{workers}.zarr"
        shutil.copytree(study.path, copy)
        shutil.rmtree(copy / "scores")
        opened = score(copy, workers=workers, memory=memory)
        results.append({site: opened.dataset(f"scores/{site}").load() for site in opened.layouts})
    for site, dataset in results[0].items():
        assert dataset.identical(results[1][site])
        assert dataset.identical(study.dataset(f"scores/{site}").load())


def test_sampled_negatives_are_four_to_one_and_seeded(captured):
    score(captured, negatives=1, seed=3)
    names = captured.prompts(schema.IDENTIFY).relation.tolist()
    labels = kernels.Labels.one_vs_rest(names, captured.relations()).sampled(1, 3)
    columns = captured.columns("mlp.down", 2, 0, captured.layouts["mlp.down"].span)
    expected = kernels.rank_statistics(columns, labels, ["average_precision"])["average_precision"]
    stored = captured.dataset("scores/mlp.down")["average_precision"][:, 2].values
    np.testing.assert_allclose(stored, expected, atol=1e-6)


def test_only_what_changed_is_computed_again(captured, monkeypatch):
    computed = []
    monkeypatch.setattr(
        "relact.scoring.score.run_task",
        lambda job, task: computed.append(job.labels.relations) or run_task(job, task),
    )
    score(captured, relations=["size"])
    assert set(computed) == {("size",)}
    computed.clear()
    score(captured)
    assert set(computed) == {("colour",)}
    computed.clear()
    both = {site: captured.dataset(f"scores/{site}").load() for site in captured.layouts}
    score(captured)
    score(captured, relations=["colour", "size"])  # another order: nothing to compute
    assert not computed
    for site, dataset in both.items():
        assert captured.dataset(f"scores/{site}").identical(dataset)
    shutil.rmtree(captured.path / "scores")
    assert score(captured).dataset("scores/mlp.up").load().identical(both["mlp.up"])
    score(captured, seed=1, negatives=1)
    assert set(computed) == {("size", "colour")}


def test_no_relation_and_no_statistic_is_dropped_by_scoring_another(captured):
    score(captured, relations=["colour"], statistics=["average_precision", "auroc"])
    colour = captured.dataset("scores/mlp.up").load()
    score(captured, relations=["size"], statistics=["on_mean"])
    assert captured.scores_record().relations == ("colour", "size")
    assert captured.statistics() == ["average_precision", "auroc", "on_mean"]
    both = captured.dataset("scores/mlp.up").load()
    for name in ("average_precision", "auroc"):
        assert both[name].sel(relation=["colour"]).identical(colour[name])
    score(captured, relations=["colour"])
    after = captured.dataset("scores/mlp.up").load()
    assert {*after} == {*STATISTICS, "auroc", "on_mean"} and after[[*both]].identical(both)
    with pytest.raises(
        InputError, match=r"size were scored with negatives None \(asked for: 1\), seed None \(asked"
    ):
        score(captured, relations=["colour"], negatives=1)
    assert captured.dataset("scores/mlp.up").load().identical(after)
    score(captured, negatives=1)
    assert {*captured.dataset("scores/mlp.up")} == {*after}


@pytest.mark.slow
def test_a_cluster_gives_the_same_bits_though_a_worker_dies(captured, tmp_path):
    """A scheduler and two workers as processes of their own. One is killed while it works: the one that alone
    holds what all tasks share, as happens to it when a cluster tidies its memory.
    """
    score(captured)
    expected = {site: captured.dataset(f"scores/{site}").load() for site in captured.layouts}
    shutil.rmtree(captured.path / "scores")
    address = f"tcp://127.0.0.1:{free_port()}"
    python = [sys.executable, "-m"]
    scheduler = [*python, "distributed.cli.dask_scheduler", "--no-dashboard", "--host", address]
    worker = [*python, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
    with running(scheduler, tmp_path), ExitStack() as stack:
        workers = {
            name: stack.enter_context(running([*worker, "--no-dashboard", "--name", name], tmp_path))
            for name in ("one", "two")
        }
        client = stack.enter_context(distributed.Client(address))
        client.wait_for_workers(2, timeout=60)
        killed = []

        def kill(stage, done, total, unit):
            if done and not killed:
                killed.append(done)
                victim = workers[only_holder_of_the_job(client)]
                victim.kill()
                victim.wait()

        score(captured, scheduler=address, progress=kill)
        assert 0 < killed[0] < sum(lay.n_layers * lay.width for lay in captured.layouts.values())
    for site, dataset in expected.items():
        assert captured.dataset(f"scores/{site}").load().identical(dataset)
    with pytest.raises(InputError, match=r"no scheduler answers"):
        score(captured, negatives=1, scheduler=address)
    with pytest.raises(InputError, match="'slurm' is not a scheduler"):
        score(captured, negatives=1, scheduler="slurm")


def only_holder_of_the_job(client):
    """Name of the one worker that has what the tasks share, once it is one."""
    while True:
        holders = next(where for key, where in client.who_has().items() if key.startswith("Job"))
        if len(holders) == 1:
            return client.scheduler_info()["workers"][holders[0]]["name"]
        time.sleep(0.05)


@pytest.mark.slow
def test_a_cluster_that_seems_silent_is_asked_again(captured, monkeypatch):
    """A client that missed the scheduler's word of finished tasks, as it can when a worker dies,
    does not wait for ever.
    """
    score(captured)
    expected = {site: captured.dataset(f"scores/{site}").load() for site in captured.layouts}
    shutil.rmtree(captured.path / "scores")
    missed, hear = set(), distributed.Client._handle_key_in_memory

    def miss_three(client, key=None, **rest):
        if str(key).startswith("run_task") and (key in missed or len(missed) < 3):
            missed.add(key)
        else:
            hear(client, key=key, **rest)

    monkeypatch.setattr(distributed.Client, "_handle_key_in_memory", miss_three)
    monkeypatch.setattr(schedulers, "PATIENCE_SECONDS", 0.5)
    with distributed.LocalCluster(
        n_workers=1, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        score(captured, scheduler=cluster.scheduler_address)
    assert len(missed) == 3
    for site, dataset in expected.items():
        assert captured.dataset(f"scores/{site}").load().identical(dataset)


@pytest.mark.slow
def test_a_worker_that_its_nanny_restarts_is_waited_for(captured):
    """The only worker is killed twice: what it had is computed again by the one that comes."""
    score(captured)
    expected = {site: captured.dataset(f"scores/{site}").load() for site in captured.layouts}
    shutil.rmtree(captured.path / "scores")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster.scheduler_address) as client,
    ):
        came = []

        def kill(stage, done, total, unit):
            came.append(done)
            if len(came) in (1, 3):
                for process in client.run(os.getpid).values():
                    os.kill(process, signal.SIGKILL)

        score(captured, scheduler=cluster.scheduler_address, progress=kill)
    assert came == sorted(came) and len(set(came)) > 3
    for site, dataset in expected.items():
        assert captured.dataset(f"scores/{site}").load().identical(dataset)


class Lost:
    """A call whose worker went: what comes instead of its result is what the client raises otherwise."""

    def __init__(self, key, status):
        self.key, self.status = key, status


@pytest.mark.parametrize(
    ("status", "result"),
    [
        ("cancelled", CancelledError("run_task cancelled for reason: unknown")),
        ("finished", RuntimeError("lost")),  # an exception is no result, of whatever class
        ("cancelled", (RuntimeError, RuntimeError("lost"), None)),
    ],
)
def test_a_lost_result_is_asked_for_again(monkeypatch, status, result):
    answers = iter([(status, result), ("finished", 7)])

    class Completed:
        def __init__(self, calls, *_, **__):
            self.calls = list(calls)

        def update(self, calls):
            self.calls += calls

        def __iter__(self):
            while self.calls:
                call = self.calls.pop(0)
                call.status, value = next(answers)
                yield call, value

    class Client:
        loop, number = None, 0

        def wait_for_workers(self, *_, **__): ...

        def scatter(self, jobs, **_):
            return [Lost("job", "finished")]

        def submit(self, *_, **__):
            self.number += 1
            return Lost(f"run_task-{self.number}", "pending")

    monkeypatch.setattr(distributed, "as_completed", Completed)
    collected = []
    schedulers._on_cluster(Client(), max, "job", ["task"], lambda *found: collected.append(found))
    assert collected == [("task", 7)]


@contextmanager
def running(command, folder):
    """A process in the background, ended with the block; Dask tidies its memory all the time."""
    tidy = {"DASK_DISTRIBUTED__SCHEDULER__ACTIVE_MEMORY_MANAGER__INTERVAL": "100ms"}
    with (
        (folder / "log.txt").open("ab") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **tidy}) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_device_gives_the_same_within_rounding(captured, study, tmp_path):
    """The torch kernels, on the device that every machine has."""
    for negatives in (None, 2):
        labels = labels_of(study.prompts("identify").relation.tolist(), study.relations(), negatives, 0)
        columns = study.columns("mlp.up", 2, 0, study.layouts["mlp.up"].span)
        ours = kernels.rank_statistics(columns, labels, BUILT_IN)
        theirs = kernels.on_device("cpu")(columns, labels, BUILT_IN)
        for name in BUILT_IN:
            np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-6, atol=1e-7)


def test_a_device_takes_whole_layers(tmp_path, tiny_prompts, monkeypatch):
    """As far as the budget goes; scores are those of the CPU."""
    folder = tiny.save_talker(tmp_path / "model")
    store = capture(str(folder), tiny_prompts, tmp_path / "s.zarr", sites="mlp.up")
    lay, taken = store.layouts["mlp.up"], []
    assert lay.n_spans > 1
    expected = score(store).dataset(f"{schema.SCORES}/mlp.up").load()

    def on_device(device, own=kernels.on_device):
        return lambda columns, *rest: (taken.append(columns[0].shape[1]), own(device)(columns, *rest))[1]

    monkeypatch.setattr(kernels, "on_device", on_device)
    narrow = shape_of(store, "mlp.up", len(store.relations()), len(STATISTICS), 2).memory(lay.span)
    for memory, width in (("4GiB", lay.width), (narrow, lay.span)):
        shutil.rmtree(store.path / schema.SCORES)
        taken.clear()
        found = score(local.open(store.path), device="cpu:0", memory=memory, statistics=STATISTICS)
        assert set(taken) == {width}
        for name, values in found.dataset(f"{schema.SCORES}/mlp.up").data_vars.items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-6, atol=1e-7)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match=r"Score with --device cpu"):
            score(store, device="cuda", statistics=["auroc"])


def test_refusals_name_what_is_wrong_and_leave_the_scores(captured, tiny_folder, tiny_prompts, tmp_path):
    with pytest.raises(InputError, match=r"no prompts of relation shape\. Choose from size, colour"):
        score(captured, relations=["shape"])
    with pytest.raises(BudgetError, match="budget is 1 MB"):
        score(captured, memory="1MB")
    single = tiny_prompts[tiny_prompts.relation == "size"]
    alone = capture(str(tiny_folder), single, tmp_path / "alone.zarr")
    with pytest.raises(InputError, match="all prompts belong to 'size'"):
        score(alone)
    captured.log.remove(0)
    with pytest.raises(StoreError, match=r"1 of 4 blocks are not captured yet.*relact capture"):
        score(captured)
    assert not captured.has(schema.SCORES)


def test_not_a_number_is_named(captured, monkeypatch):
    monkeypatch.setattr(blocks.BlockBuffer, "check", lambda *_: None)
    values = np.zeros((captured.n_prompts, captured.layouts["mlp.up"].width), np.float32)
    values[9, 3] = np.nan
    rewrite(captured, "mlp.up", 2, values)
    with pytest.raises(
        NumericError, match=r"site mlp.up, layer 2: the activation of neuron 3 on prompt 9 is NaN"
    ):
        score(captured)
    assert not local.open(captured.path).has(schema.SCORES)
