"""Variances and standard deviations of samples."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ..contract import Field
from .functions import Function, Groups, doubles, refuse_infinite, to_numpy


class Variance(Function):
    """``variance(field)``: of a sample (divided by the count less one), as SQL's ``VAR_SAMP``;
    float64, null of fewer than two values.

    Values are taken as float64. The state is their count, their mean and ``m2``, the sum of the
    squares of their distances from it (of no values: zeros). States merge by the formula of Chan,
    Golub and LeVeque (1979), here for any number of parts at once.
    """

    def parts(self, field: Field | None) -> dict[str, pa.DataType]:
        return {"count": pa.int64(), "mean": pa.float64(), "m2": pa.float64()}

    def result(self, field: Field | None) -> pa.DataType:
        return pa.float64()

    def partial(
        self, groups: Groups, column: pa.Array, field: Field | None, times: pa.Array
    ) -> list[pa.Array]:
        ids, values = groups.present(column)
        return _states(groups.count, ids, np.ones(len(ids)), doubles(values), np.zeros(len(ids)))

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        counts, means, squares = (state.to_numpy() for state in states)
        held = counts > 0  # the mean of nothing is no mean
        return _states(groups.count, groups.ids[held], counts[held], means[held], squares[held])

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        counts, _, squares = (state.to_numpy() for state in states)
        variances = pa.array(squares / np.maximum(counts - 1, 1), mask=counts < 2)
        refuse_infinite(variances)
        return variances


class Stddev(Variance):
    """``stddev(field)``: the square root of :class:`Variance`, as SQL's ``STDDEV_SAMP``."""

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        variances = super().finalise(states, field)
        return pa.array(
            np.sqrt(variances.fill_null(0).to_numpy()), mask=to_numpy(variances.is_null())
        )


def _states(
    count: int, ids: np.ndarray, counts: np.ndarray, means: np.ndarray, squares: np.ndarray
) -> list[pa.Array]:
    """Counts, means and squares of groups of parts. A part has at least one value.

    The mean is sought from a mean of the group's own parts: so equal values have no variance at
    all, and values that are close together lose no digits to their distance from zero.
    """
    total = np.bincount(ids, counts, count)
    least_one = np.maximum(total, 1)
    near = np.zeros(count)
    near[ids] = means
    with np.errstate(over="ignore", invalid="ignore"):  # infinite squares are refused at the end
        off = means - near[ids]
        shift = np.bincount(ids, counts * off, count) / least_one
        off -= shift[ids]
        rest = np.bincount(ids, counts * off, count)
        apart = np.bincount(ids, counts * off * off, count)
        between = np.where(np.isinf(apart), apart, apart - rest * rest / least_one)
        m2 = np.bincount(ids, squares, count) + np.maximum(between, 0)
        mean = near + (shift + rest / least_one)
    return [pa.array(total.astype(np.int64)), pa.array(mean), pa.array(m2)]
