import numpy as np
import pytest

from backlight.errors import UsageError
from backlight.kernels import get_backend

from .emulate import build, compiler, on_device


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    if compiler() is None:
        pytest.skip("no C++ compiler to build the CUDA source for the CPU with")
    return build(tmp_path_factory.mktemp("emulated"))


BACKENDS = ["numpy", "cpp", "emulated", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Every backend: the same tests for all. "emulated" is "cuda" on the CPU."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated")
    try:
        return get_backend(request.param)
    except UsageError as error:
        if request.param == "cuda":
            pytest.skip(str(error))
        raise


@pytest.fixture
def put(backend):
    """A NumPy array -> an array of the backend."""
    if backend.name != "cuda":
        return lambda array: array
    return lambda array: on_device(backend.xp.asarray(array))


def to_numpy(array):
    return array.get() if hasattr(array, "get") else np.asarray(array)
