"""Every CUDA kernel compiles for the devices we name, with NVRTC itself and no GPU or driver."""

import ctypes
import importlib.util
import re
from pathlib import Path

import pytest

from backlight.kernels.cuda.backend import OPTIONS, SOURCE, kernel_names


@pytest.fixture(scope="module")
def nvrtc():
    found = importlib.util.find_spec("nvidia")
    folders = list(found.submodule_search_locations or []) if found else []
    libraries = [p for f in folders for p in Path(f).glob("**/libnvrtc.so.*")]
    if not libraries:
        pytest.skip("the package nvidia-cuda-nvrtc is not installed")
    return ctypes.CDLL(str(libraries[0]))


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_every_kernel_compiles(nvrtc, arch):
    program = ctypes.c_void_p()
    source = SOURCE.read_bytes()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"masks.cu", 0, None, None) == 0
    options = [o.encode() for o in (*OPTIONS, f"--gpu-architecture={arch}")]
    status = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*options)
    )
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    assert nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
    cubin = ctypes.create_string_buffer(size.value)
    assert nvrtc.nvrtcGetCUBIN(program, cubin) == 0
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    assert cubin.raw[:4] == b"\x7fELF"
    # The launcher's kernels, all of them and no others, have code in the cubin.
    assert set(re.findall(rb"\0\.text\.(\w+)", cubin.raw)) == {n.encode() for n in kernel_names()}
