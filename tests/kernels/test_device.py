"""The statistics of a torch device against those of the CPU's kernels, on a device that is the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.columns import bfloat16, columns_of_every_kind, labels_of_every_kind

from relact.errors import InputError, ModelError
from relact.kernels import STATISTICS, Beside, Labels, NotANumber, device, on_device, rank_statistics
from relact.kernels.statistics import BUILT_IN

torch = pytest.importorskip("torch")


def stored(values: np.ndarray, dtype: type) -> np.ndarray:
    """Values as a store has them."""
    with np.errstate(over="ignore"):
        return bfloat16(values) if dtype is np.uint16 else values.astype(dtype)


def require_equal(blocks: list[np.ndarray], labels: Labels) -> None:
    expected = rank_statistics(blocks, labels, sorted(BUILT_IN))
    found = on_device("cpu")(blocks, labels, sorted(BUILT_IN))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-11, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint16])
@pytest.mark.parametrize("kind", range(4))
def test_equal_for_any_values_and_labels(dtype: type, kind: int) -> None:
    """Ties, both zeros, infinities; one against the rest, sampled, some of the relations, any matrix."""
    random = np.random.default_rng(kind)
    for _ in range(25):
        prompts, neurons = int(random.integers(1, 120)), int(random.integers(1, 30))
        values = stored(columns_of_every_kind(random, prompts, neurons), dtype)
        cut = int(random.integers(0, prompts + 1))
        require_equal([values[:cut], values[cut:]], labels_of_every_kind(random, prompts, kind))


@pytest.mark.parametrize("relations", [1, 2, 3, 100, 256, 257, 300])
@pytest.mark.parametrize("ties", [False, True])
def test_equal_for_any_number_of_relations(relations: int, ties: bool) -> None:
    random = np.random.default_rng(relations)
    values = random.normal(size=(700, 9)).astype(np.float32)
    values = np.round(2 * values) / 2 if ties else values
    of_prompt = np.r_[np.arange(relations), random.integers(0, relations, 700 - relations)]
    require_equal([values], Labels.one_vs_rest([f"r{i}" for i in random.permutation(of_prompt)]))


def test_equal_where_a_class_has_no_prompt_and_one_relation_has_them_all() -> None:
    values = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float16)
    roles = np.array([[0, 0], [1, 0], [0, 0], [0, 1]], np.int8)
    require_equal([values], Labels(("a", "b"), np.array([3, 1, 1, 3, 3, 1], np.uint16), roles))
    require_equal([values], Labels.one_vs_rest(["a"] * 6))
    require_equal([values[:, :0]], Labels.one_vs_rest(["a"] * 3 + ["b"] * 3))


@pytest.mark.parametrize("kind", [0, 1])
def test_tiles_do_not_change_anything(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(kind)
    values = random.normal(size=(90, 37)).astype(np.float16)
    labels = labels_of_every_kind(random, 90, kind)
    expected = on_device("cpu")([values], labels, sorted(BUILT_IN))
    seen = []
    monkeypatch.setattr(device, "STAGED", 2 * 90 * 8)
    for room in (device.ON_CPU, 0):
        monkeypatch.setattr(device, "ON_CPU", room)
        seen.append(len(list(device._tiles("cpu", [values], labels))))
        found = on_device("cpu")([values], labels, sorted(BUILT_IN))
        for name, whole in expected.items():
            np.testing.assert_array_equal(found[name], whole)
    assert seen == [5, 37]


@pytest.mark.parametrize("staged", [1 << 20, 2 * 90 * 10])
def test_arrays_side_by_side_are_one(staged: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(90, 37)).astype(np.float16)
    labels, names = labels_of_every_kind(random, 90, 0), [*sorted(BUILT_IN), "z"]
    expected = on_device("cpu")([values], labels, names)
    monkeypatch.setattr(device, "STAGED", staged)
    blocks = [
        Beside([rows[:, :7], rows[:, 7:8], rows[:, 8:30], rows[:, 30:]])
        for rows in (values[:40], values[40:])
    ]
    found = on_device("cpu")(blocks, labels, names)
    for name, whole in expected.items():
        np.testing.assert_array_equal(found[name], whole)
    with pytest.raises(InputError, match="90 labelled prompts"):
        on_device("cpu")(blocks[:1], labels, names)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint16])
def test_not_a_number_is_named_in_any_tile(kind: int, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "ON_CPU", 0)
    values = np.zeros((40, 5), np.float32)
    values[[30, 7, 3], [2, 2, 4]] = np.nan
    labels = labels_of_every_kind(np.random.default_rng(0), 40, kind)
    with pytest.raises(NotANumber) as caught:
        on_device("cpu")([stored(values, dtype)], labels, ["auroc"])
    assert (caught.value.neuron, caught.value.prompt) == (2, 7)


def test_statistics_without_a_form_for_a_device_are_those_of_the_cpu() -> None:
    values = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float16)
    labels = Labels.one_vs_rest(["a", "b", "c"] * 10)
    names = ["margin", "average_precision", "z", "d_prime"]
    found, expected = (rank([values], labels, names) for rank in (on_device("cpu"), rank_statistics))
    assert list(found) == names
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12)
    with pytest.raises(InputError, match="no statistic 'nonsense'"):
        on_device("cpu")([values], labels, ["nonsense"])
    assert "nonsense" not in STATISTICS


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match=r"--device cuda:99: .*Score with --device cpu"):
        on_device("cuda:99")
