"""Regressors that say what the value of an arch will be, from the archs measured so far.

A regressor is any function that takes features and values and returns a function from features to
values; so a class of one's own, or `fitted_by(estimator)` with any estimator of scikit-learn, does
as well as those here.

Letters in shapes: `N` archs, `F` features.

Reference: Sarah et al. 2022, arXiv 2202.12954 (ridge and support vectors, each chosen by five-fold
cross-validation, and a stack of both). We differ in coarser grids, in ridge by one decomposition
for all penalties, and in the root of the mean squared error as the score where a value is near 0.
"""

from __future__ import annotations

import copy
import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from manynet.errors import InputError, MissingExtraError, did_you_mean

__all__ = [
    "MLP",
    "REGRESSORS",
    "SVR",
    "BoostedTrees",
    "Fitted",
    "Regressor",
    "Ridge",
    "RidgeSvr",
    "Stacked",
    "fitted_by",
    "label_factor",
    "make_regressor",
]

Reals: TypeAlias = NDArray[np.float64]

_FOLDS = 5
_JUDGED = 400
"""Support vectors are chosen on so many archs at most: their fit grows with the square of that."""
_NEAR_ZERO = 1e-3


class Regressor(Protocol):
    """What learns values from features."""

    def __call__(self, features: Reals, values: Reals, /) -> Callable[[Reals], Reals]:
        """Return what predicts the values `(N,)` of features `(N, F)`."""
        ...


@dataclass(frozen=True)
class Fitted:
    """What a regressor here returns: call it with features `(N, F)` to get values `(N,)`.

    Args:
        function: from features to values.
        name: of the regressor that was chosen.
        error: of cross-validation, as a share of the values; not a number where there was none.
    """

    function: Callable[[Reals], Reals] = field(repr=False)
    name: str
    error: float = math.nan

    def __call__(self, features: Reals) -> Reals:
        """Return the predicted values `(N,)`."""
        return self.function(features)


@dataclass(frozen=True)
class Ridge:
    """Linear regression with a penalty on the weights, chosen by five-fold cross-validation.

    Args:
        penalties: to choose from.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> predict = Ridge()(x, x @ np.array([1.0, 2.0, 3.0]) + 10)
        >>> bool(np.abs(predict(np.eye(3)) - np.array([11, 12, 13])).max() < 0.1)
        True
    """

    penalties: Sequence[float] = tuple(n / 10 for n in range(1, 101))

    def __call__(self, features: Reals, values: Reals, /) -> Fitted:
        """Fit."""
        penalties = np.array(self.penalties)

        def fold(seen: Reals, wanted: Reals, left: Reals) -> Reals:
            return _ridges(seen, wanted, penalties)(left)

        held = _held_out(features, values, fold, len(penalties))
        errors = [_error(column, values) for column in held.T]
        best = int(np.argmin(errors))
        made = _ridges(features, values, penalties[[best]])
        return Fitted(lambda x: made(x)[:, 0], "ridge", errors[best])


@dataclass(frozen=True)
class SVR:
    """Support vectors with a radial kernel; the price of errors by five-fold cross-validation.

    Args:
        prices: to choose from (`C` in scikit-learn).

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """

    prices: Sequence[float] = (1.0, 3.0, 10.0, 30.0, 100.0)

    def __call__(self, features: Reals, values: Reals, /) -> Fitted:
        """Fit."""
        judged = _subset(len(values))
        errors = [self._error(price, features[judged], values[judged]) for price in self.prices]
        best = int(np.argmin(errors))
        return Fitted(_svr(self.prices[best], features, values), "svr", errors[best])

    def _error(self, price: float, features: Reals, values: Reals) -> float:
        def fold(seen: Reals, wanted: Reals, left: Reals) -> Reals:
            return _svr(price, seen, wanted)(left)

        return _error(_held_out(features, values, fold)[:, 0], values)


@dataclass(frozen=True)
class RidgeSvr:
    """Ridge or support vectors, whichever did better in cross-validation; the default of LINAS."""

    ridge: Ridge = field(default_factory=Ridge)
    svr: SVR = field(default_factory=SVR)

    def __call__(self, features: Reals, values: Reals, /) -> Fitted:
        """Fit both, return one."""
        both = self.ridge(features, values), self.svr(features, values)
        return min(both, key=lambda fitted: fitted.error)


@dataclass(frozen=True)
class Stacked:
    """A ridge on what ridge and support vectors say of archs that they have not seen."""

    ridge: Ridge = field(default_factory=Ridge)
    svr: SVR = field(default_factory=SVR)

    def __call__(self, features: Reals, values: Reals, /) -> Fitted:
        """Fit both, then the ridge above them."""
        below: tuple[Regressor, ...] = (self.ridge, self.svr)

        def said(fitted: Sequence[Callable[[Reals], Reals]], x: Reals) -> Reals:
            return np.stack([one(x) for one in fitted], axis=1)

        def fold(seen: Reals, wanted: Reals, left: Reals) -> Reals:
            return said([fit(seen, wanted) for fit in below], left)

        above = self.ridge(_held_out(features, values, fold, len(below)), values)
        fitted = [fit(features, values) for fit in below]
        return Fitted(lambda x: above(said(fitted, x)), "stacked", above.error)


@dataclass(frozen=True)
class MLP:
    """A small network of scikit-learn.

    Args:
        hidden: the widths of its layers.
        seed: of its first weights.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """

    hidden: tuple[int, ...] = (64, 64)
    seed: int = 0

    def __call__(self, features: Reals, values: Reals, /) -> Fitted:
        """Fit on values of mean 0 and spread 1."""
        learn = _sklearn("neural_network").MLPRegressor
        made = learn(
            hidden_layer_sizes=self.hidden,
            solver="lbfgs",
            alpha=0.1,
            max_iter=300,
            random_state=self.seed,
        )
        center, spread = float(values.mean()), float(values.std()) or 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was stopped before it had converged
            predict = fitted_by(made)(features, (values - center) / spread)
        return Fitted(lambda x: predict(x) * spread + center, "mlp")


@dataclass(frozen=True)
class BoostedTrees:
    """Gradient-boosted trees of scikit-learn.

    Args:
        trees: how many.
        depth: of each.
        rate: how much each one counts.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """

    trees: int = 200
    depth: int = 3
    rate: float = 0.1

    def __call__(self, features: Reals, values: Reals, /) -> Fitted:
        """Fit."""
        learn = _sklearn("ensemble").GradientBoostingRegressor
        made = learn(
            n_estimators=self.trees, max_depth=self.depth, learning_rate=self.rate, random_state=0
        )
        return Fitted(fitted_by(made)(features, values), "trees")


REGRESSORS: dict[str, Callable[[], Regressor]] = {
    "mlp": MLP,
    "ridge": Ridge,
    "ridge_svr": RidgeSvr,
    "stacked": Stacked,
    "svr": SVR,
    "trees": BoostedTrees,
}


def make_regressor(regressor: str | Regressor) -> Regressor:
    """Return the regressor of that name, or the one given.

    Raises:
        InputError: there is none of that name, or what was given cannot be called.
    """
    if isinstance(regressor, str):
        if regressor not in REGRESSORS:
            raise InputError(
                f"there is no regressor {regressor!r}{did_you_mean(regressor, REGRESSORS)}"
            )
        return REGRESSORS[regressor]()
    if not callable(regressor):
        raise InputError(
            f"{regressor!r} is no regressor: it must take features and values and return a "
            "function; hand an estimator of scikit-learn to fitted_by first"
        )
    return regressor


def fitted_by(estimator: Any) -> Regressor:
    """Return a regressor that fits a copy of an estimator with `fit` and `predict`.

    Args:
        estimator: as in scikit-learn; it is not changed. Give it a seed of its own.

    Raises:
        InputError: it lacks one of the two.
    """
    if not (hasattr(estimator, "fit") and hasattr(estimator, "predict")):
        raise InputError(f"{estimator!r} has no fit and predict; give an estimator that has both")

    def regressor(features: Reals, values: Reals, /) -> Callable[[Reals], Reals]:
        made = copy.deepcopy(estimator)
        made.fit(features, values)
        return lambda x: np.asarray(made.predict(x), dtype=np.float64).reshape(len(x))

    return regressor


def label_factor(values: Reals) -> float:
    """Return the power of ten that brings the largest of the values to between 10 and 100.

    Example:
        >>> [label_factor(np.array([v])) for v in (76.7, 3.2e8, 0.05, 0.0)]
        [1.0, 10000000.0, 0.001, 1.0]
    """
    largest = float(np.abs(values).max(initial=0.0))
    return 10.0 ** (math.floor(math.log10(largest)) - 1) if largest > 0 else 1.0


def _ridges(features: Reals, values: Reals, penalties: Reals) -> Callable[[Reals], Reals]:
    """Return what predicts, for each penalty, the values: one decomposition serves them all."""
    mean, center = features.mean(axis=0), float(values.mean())
    left, scales, right = np.linalg.svd(features - mean, full_matrices=False)
    shrunk = scales[:, None] / (scales[:, None] ** 2 + penalties)
    weights = right.T @ (shrunk * (left.T @ (values - center))[:, None])
    return lambda x: (x - mean) @ weights + center


def _svr(price: float, features: Reals, values: Reals) -> Callable[[Reals], Reals]:
    made = _sklearn("svm").SVR(kernel="rbf", gamma="auto", epsilon=0.0, C=price)
    return fitted_by(made)(features, values)


def _sklearn(module: str) -> Any:
    """Return a module of scikit-learn. Raises `MissingExtraError`."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "search") from error


def _subset(count: int) -> NDArray[np.int64]:
    """Return the rows that support vectors are chosen on: all, or a fixed random part."""
    order = np.random.default_rng(0).permutation(count)
    return np.sort(order[:_JUDGED])


def _held_out(
    features: Reals,
    values: Reals,
    fold: Callable[[Reals, Reals, Reals], Reals],
    columns: int = 1,
) -> Reals:
    """Return what `fold(seen, wanted, left)` says of each arch when it has not seen it."""
    found = np.empty((len(values), columns))
    part = np.random.default_rng(0).permutation(len(values)) % min(_FOLDS, len(values))
    for number in range(int(part.max()) + 1):
        out = part == number
        said = fold(features[~out], values[~out], features[out])
        found[out] = said.reshape(int(out.sum()), columns)
    return found


def _error(found: Reals, wanted: Reals) -> float:
    """Return the mean absolute error in shares of the values; squared where one is near 0."""
    largest = float(np.abs(wanted).max(initial=0.0)) or 1.0
    if float(np.abs(wanted).min(initial=largest)) > _NEAR_ZERO * largest:
        return float(np.mean(np.abs((found - wanted) / wanted)))
    return float(np.sqrt(np.mean((found - wanted) ** 2))) / largest
