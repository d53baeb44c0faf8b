"""Which candidates are worth a measurement: a model of the times from the parameters."""

import numpy as np
from numpy.typing import NDArray

from transfuse.tune import statistics
from transfuse.tune.constants import MODEL_RIDGE, MODEL_ROUNDS


def predict(
    places: NDArray[np.float64], measured: NDArray[np.intp], logs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Logarithms of times as a sum of one number for each parameter's value.

    Fitted by ridge regression with Huber's weights (P. J. Huber, Robust estimation of a location parameter, 1964), so
    that outliers count little.

    Parameters
    ----------
    places : (candidates, parameters)
        Which value each parameter has.
    measured : (samples,)
        Candidates.
    logs : (samples,)
        Of their times.

    Returns
    -------
    predictions : (candidates,)
    scale : float
        The standard deviation of what the model does not explain, noise included; infinite where there are too few
        samples to tell.
    """
    columns = [values[:, None] == np.unique(values) for values in places.T]
    design = np.hstack([np.ones((len(places), 1)), *columns]).astype(float)
    penalty = np.diag([1e-9, *[MODEL_RIDGE] * (design.shape[1] - 1)])
    x, weights = design[measured], np.ones(len(measured))
    for _ in range(MODEL_ROUNDS):
        weighted = x * weights[:, None]
        coefficients = np.linalg.solve(weighted.T @ x + penalty, weighted.T @ logs)
        residuals = logs - x @ coefficients
        scale = statistics.NORMAL_MAD * float(np.median(np.abs(residuals))) + 1e-9
        weights = np.minimum(1, 1.5 * scale / np.maximum(np.abs(residuals), 1e-12))
    scale = max(scale, float(np.sqrt(2 * np.mean(np.minimum(residuals, 0) ** 2))))
    freedom = len(measured) - effects(places)
    if freedom < max(4, effects(places) / 2):
        return design @ coefficients, np.inf
    return design @ coefficients, scale * float(np.sqrt(len(measured) / freedom))


def effects(places: NDArray[np.float64]) -> int:
    """The numbers of the model that can be told from each other."""
    return 1 + sum(np.unique(values).size - 1 for values in places.T)
