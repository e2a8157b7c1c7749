"""masks.cu without a GPU: built by a C++ compiler, launched by a loop, with NumPy for CuPy.

The launcher's own Python, the grid sizes, the kernels' index arithmetic and their vector stores
all run; what does not is the device's compiler (test_nvrtc.py) and the device.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np

from backlight.kernels.cuda.backend import SOURCE, CudaBackend

SHIM = """
struct Index { unsigned x, y, z; };
static Index blockIdx, threadIdx, blockDim;
#define __global__
extern "C" void place(unsigned block, unsigned thread, unsigned size) {
  blockIdx.x = block; threadIdx.x = thread; blockDim.x = size;
}
#include "masks.cu"
"""

CTYPES = {"int32": ctypes.c_int32, "int64": ctypes.c_int64, "float32": ctypes.c_float}


class DeviceArray(np.ndarray):
    """A NumPy array with the one attribute of CuPy's that the launcher reads."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


def on_device(value):
    return value.view(DeviceArray) if isinstance(value, np.ndarray) else value


class FakeCuPy:
    """NumPy's functions, giving DeviceArrays, and what the launcher asks of cupy.cuda."""

    cuda = SimpleNamespace(
        runtime=SimpleNamespace(getDevice=lambda: 0),
        get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
    )

    def __getattr__(self, name):
        function = getattr(np, name)
        return lambda *args, **kwargs: on_device(function(*args, **kwargs))


def compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")


def build(folder) -> CudaBackend:
    """Compile masks.cu for the CPU and return the CUDA backend running on it."""
    source, library = folder / "emulated.cpp", folder / "emulated.so"
    source.write_text(SHIM)
    subprocess.run(
        [
            *(compiler(), "-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"),
            *(f"-I{SOURCE.parent}", f"-I{SOURCE.parent.parent}", source, "-o", library),
        ],
        check=True,
    )
    loaded = ctypes.CDLL(str(library))

    def kernel(name):
        function = getattr(loaded, name)
        function.restype = None

        def launch(grid, block, arguments):
            values = [
                ctypes.c_void_p(a.ctypes.data)
                if isinstance(a, np.ndarray)
                else CTYPES[a.dtype.name](a.item())
                for a in arguments
            ]
            for index in range(grid[0] * block[0]):
                loaded.place(index // block[0], index % block[0], block[0])
                function(*values)

        return launch

    return CudaBackend(FakeCuPy(), kernel)
