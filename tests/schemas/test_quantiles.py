"""Quantiles: exact of few values, of many within a stated error, the same bytes every time."""

import hashlib
import math
import random
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_support import grouped, results_of, states_of
from millstream.schemas.aggregates.functions import Groups
from millstream.schemas.aggregates.quantiles import RANK_ERROR, K, Quantile
from millstream.schemas.contract import Field

NUMBER = Field("x", "number")
NO_TIMES = pa.array([], pa.timestamp("us", "UTC"))
shares = st.sampled_from(["0", "1", "0.5", "0.07", "0.95", "0.999", "1e-9", "0.3333"])


def exact(values, share):
    """The least value that at least this share of the values do not exceed."""
    return sorted(values)[max(math.ceil(Fraction(share) * len(values)), 1) - 1]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.just(0), st.none() | st.floats(-1e308, 1e308)),
        max_size=60,
    ),
    shares,
    st.randoms(),
)
def test_a_quantile_of_few_values_is_exact_by_any_way(rows, share, chance):
    metric = f"quantile(x, {share})"
    found = results_of(rows, metric, NUMBER, chance)
    for group, members in grouped(rows).items():
        values = [v for _, v in members]
        assert found[group] == (exact(values, share) if values else None)
    assert states_of(rows, metric, NUMBER, chance) == states_of(rows, metric, NUMBER)


@pytest.mark.slow
def test_every_share_of_a_hundred_values():
    rows = [("a", 0, float(v)) for v in random.Random(1).sample(range(1, 101), 100)]
    for percent in range(101):
        assert results_of(rows, f"quantile(x, {percent / 100})", NUMBER) == {"a": max(percent, 1)}


@pytest.mark.parametrize("size", [K - 1, K])
def test_it_is_exact_up_to_so_many_values(size):
    rows = [("a", 0, float(v)) for v in range(size)]
    for seed in range(4):
        chance = random.Random(seed)
        assert results_of(rows, "quantile(x, 0.5)", NUMBER, chance) == {
            "a": exact(range(size), 0.5)
        }


@pytest.mark.parametrize(
    ("field", "values", "median"),
    [
        (Field("x", "integer", storage="uint64"), [2**64 - 1, 0, 2**63], 2.0**63),
        (Field("x", "integer", storage="int8"), [-128, 127, 0], 0.0),
        (Field("x", "number", storage="float32"), [0.5, 2.0, 1.0], 1.0),
        (Field("x", "decimal", precision=9, scale=2), [Decimal("0.10"), Decimal("9.99")], 0.1),
        (Field("x", "decimal", precision=60, scale=0), [Decimal(10) ** 50] * 2, 1e50),
    ],
)
def test_every_numeric_type_becomes_a_float(field, values, median):
    rows = [("a", 0, value) for value in [*values, None]]
    assert results_of(rows, "quantile(x, 0.5)", field) == {"a": median}


def test_minus_zero_is_zero():
    for values in ([0.0, -0.0], [-0.0, 0.0]):
        rows = [("a", 0, value) for value in values]
        assert str(results_of(rows, "quantile(x, 0.5)", NUMBER)) == "{'a': 0.0}"


def test_more_groups_than_are_sorted_at_once():
    count = 70_000
    ids = np.random.default_rng(2).permutation(np.repeat(np.arange(count), 3))
    values = pa.array(ids * 10.0 + np.arange(3 * count) % 7)
    function = Quantile(0)
    states = function.partial(Groups(ids, count), values, NUMBER, NO_TIMES)
    least = function.finalise(function.seal(states, 0)[:2], NUMBER).to_numpy()
    expected = np.full(count, np.inf)
    np.minimum.at(expected, ids, values.to_numpy())
    assert (least == expected).all()


# Sketches


def one(rows):
    return Groups(np.zeros(rows, np.int64), 1)


def partial(values, longer_than):
    function = Quantile()
    column = pa.array(values, pa.float64())
    return function.seal(function.partial(one(len(values)), column, NUMBER, NO_TIMES), longer_than)


def merge(states, longer_than):
    function = Quantile()
    joined = [pa.concat_arrays(arrays) for arrays in zip(*states, strict=True)]
    return function.seal(function.merge(one(len(states)), joined), longer_than)


def sketch(batches, way, longer_than=0):
    """The sketch of batches that are merged one after the other, two by two, or all at once."""
    states = [partial(batch, longer_than) for batch in batches]
    match way:
        case "chain":
            merged = states[0]
            for state in states[1:]:
                merged = merge([merged, state], longer_than)
        case "tree":
            while len(states) > 1:
                pairs = [states[i : i + 2] for i in range(0, len(states), 2)]
                states = [merge(pair, longer_than) for pair in pairs]
            merged = states[0]
        case _:
            merged = merge(states, longer_than)
    return Quantile().seal(merged, 0)[:2]


def rank_error(state, values):
    """By how much of all values the rank of a quantile is off, at most."""
    values, worst = np.sort(values), 0.0
    for share in np.linspace(0, 1, 101):
        found = Quantile(share).finalise(state, NUMBER)[0].as_py()
        low = np.searchsorted(values, found, "left") / len(values)
        high = np.searchsorted(values, found, "right") / len(values)
        worst = max(worst, low - share, share - high)
    return worst


def shuffled(rng, size):
    return rng.permutation(size).astype(float)


def many_alike(rng, size):
    return rng.integers(0, 40, size).astype(float)


def heavy_tailed(rng, size):
    return np.exp(rng.normal(0, 100, size))


def ascending(rng, size):
    return np.arange(size, dtype=float)


def outwards(rng, size):
    return np.arange(size) * np.where(np.arange(size) % 2, 1.0, -1.0)


@pytest.mark.parametrize("way", ["chain", "tree", "at once"])
@pytest.mark.parametrize("make", [shuffled, many_alike, heavy_tailed, ascending, outwards])
@pytest.mark.parametrize(("size", "batch", "longer_than"), [(40_000, 4000, 0), (9000, 90, 256)])
def test_the_rank_error_is_as_stated(make, way, size, batch, longer_than):
    values = make(np.random.default_rng(5), size)
    state = sketch(np.split(values, size // batch), way, longer_than)
    kept, levels = (part.flatten().to_numpy() for part in state)
    assert (np.int64(1) << levels.astype(np.int64)).sum() == size
    assert len(kept) < 700
    assert (np.diff(kept) >= 0).all()
    assert rank_error(state, values) <= RANK_ERROR
    assert Quantile(0).finalise(state, NUMBER).to_pylist() == [values.min()]
    assert Quantile(1).finalise(state, NUMBER).to_pylist() == [values.max()]


@pytest.mark.slow
def test_errors_of_like_batches_do_not_add_up():
    """Equal batches, whose coins would all fall alike if only what is halved decided: the error
    would be 0.017."""
    batch = np.arange(16.0)
    state, added = partial(np.tile(batch, 3000), 0), partial(batch, 0)
    for _ in range(2000):
        state = merge([state, added], 0)
    kept, levels = (part.flatten().to_numpy() for part in state[:2])
    weights = np.bincount(kept.astype(int), np.exp2(levels, dtype=float))
    assert weights.sum() == 16 * 5000
    found = np.cumsum(weights) / weights.sum()
    assert np.abs(found - np.arange(1, 17) / 16).max() <= RANK_ERROR


def test_a_sketch_of_more_values_than_32_bits_count():
    values = np.random.default_rng(9).random(5000)
    state = partial(values, 0)
    for _ in range(20):
        state = merge([state, state], 0)
    levels = state[1].flatten().to_numpy().astype(np.int64)
    assert (1 << levels).sum() == 5000 << 20
    assert rank_error(state[:2], values) <= RANK_ERROR


@pytest.mark.slow
def test_errors_of_many_batches_fall_to_both_sides():
    """On the average of many sketches the rank is right: no coin falls too often."""
    rng = np.random.default_rng(4)
    errors = []
    for share in rng.random(400):
        values = rng.random(2000)
        found = Quantile(share).finalise(sketch([values], "at once"), NUMBER)[0].as_py()
        errors.append(np.searchsorted(np.sort(values), found) + 0.5 - share * 2000)
    assert abs(np.mean(errors)) < 0.6
    assert 2 < np.std(errors) < 8


def test_the_same_batches_make_the_same_bytes():
    """Also in another process, on another day: a changed digest is another state format."""
    batches = np.split(np.arange(20_000) * 7919 % 20_011 / 7, 10)
    state = sketch(batches, "chain", 256)
    data = b"".join(part.flatten().to_numpy().tobytes() for part in state)
    assert hashlib.sha256(data).hexdigest()[:16] == "a8485377962bad5d"


def test_groups_do_not_touch_each_other():
    """A crowded group beside a small one and an empty one, sealed at once."""
    function = Quantile()
    rng = np.random.default_rng(3)
    ids = rng.permutation(np.repeat([0, 2, 3], [5000, 3, 3000]))
    values = rng.random(len(ids))
    groups = Groups(np.concatenate([ids, [1]]), 4)
    column = pa.array([*values, None], pa.float64())
    states = function.seal(function.partial(groups, column, NUMBER, NO_TIMES), 0)
    for group in (0, 2, 3):
        alone = partial(values[ids == group], 0)
        assert [part.take(pa.array([group])) for part in states[:2]] == alone[:2]
    assert function.finalise(states[:2], NUMBER).to_pylist()[1] is None
    kept = function.seal(function.partial(groups, column, NUMBER, NO_TIMES), 3)
    assert kept[2].value_lengths().to_pylist() == [0, 0, 3, 0]
    assert function.seal(kept, 0) == states
