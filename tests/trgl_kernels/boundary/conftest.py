"""A module in training, in the ways in which a boundary finds."""

import pytest
from boundaries import Training


@pytest.fixture(params=["always", "sampled", "late"])
def training(request):
    """Finding in every step, in the first steps, or from a step on that is not watched."""
    training = Training(find="always" if request.param == "always" else "sampled")
    for _ in range(10 if request.param == "late" else 0):
        training.step()
    return training
