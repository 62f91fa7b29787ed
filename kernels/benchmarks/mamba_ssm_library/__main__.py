"""Builds the library: `python -m benchmarks.mamba_ssm_library SOURCE [--nvcc nvcc]`, in the folder `kernels`.

SOURCE is a checkout of https://github.com/state-spaces/mamba. Its kernels are compiled as they are, with its own flags;
a small header stands in for what they take from PyTorch's. It takes nvcc with CUB (tried: CUDA 13.0), half a minute and
no GPU. The library, of 1.4 MB, needs the driver alone and a jax as new as the one that it was built beside: bring
`build/mamba_ssm.so` and `build/mamba_ssm.version` to the machine with the GPU, into the same folder.
"""

import argparse
import pathlib
import re
import subprocess
import tempfile

import jax

from benchmarks.mamba_ssm_library import BUILD, LIBRARY, VERSION

HERE = pathlib.Path(__file__).parent
TORCH_HEADERS = (
    *("c10/util/BFloat16.h", "c10/util/Half.h", "c10/util/complex.h"),
    *("c10/cuda/CUDAException.h", "ATen/cuda/Atomic.cuh"),
)
FLAGS = ("-O3", "-std=c++17", "--use_fast_math", "--expt-relaxed-constexpr", "--expt-extended-lambda")


def build(source: pathlib.Path, nvcc: str, architecture: str) -> str:
    """Compiles the library; returns what ptxas says of the kernels.

    Raises:
      SystemExit: the source is not there, or does not compile.
    """
    kernels = source / "csrc/selective_scan"
    version = source / "mamba_ssm/__init__.py"
    if not kernels.joinpath("selective_scan_fwd_kernel.cuh").exists():
        raise SystemExit(f"{source} holds no csrc/selective_scan: it should be a checkout of state-spaces/mamba.")
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as stand_ins:
        for name in TORCH_HEADERS:
            header = pathlib.Path(stand_ins, name)
            header.parent.mkdir(parents=True, exist_ok=True)
            header.write_text('#include "without_torch.cuh"\n')
        include = [f"-I{folder}" for folder in (stand_ins, HERE, kernels, jax.ffi.include_dir())]
        shared = ["-shared", "-Xcompiler=-fPIC", "-cudart=static", "--ptxas-options=-v", f"-arch={architecture}"]
        command = [nvcc, *FLAGS, *shared, *include, "-o", LIBRARY, HERE / "scan.cu"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"It does not compile:\n{done.stderr[-4000:]}")
    found = re.search(r'__version__ = "([^"]+)"', version.read_text()) if version.exists() else None
    VERSION.write_text((found.group(1) if found else "unknown") + "\n")
    return done.stderr


def main() -> None:
    """Builds, and prints each kernel's registers and spills."""
    parser = argparse.ArgumentParser(description="Builds mamba_ssm's scan kernels without PyTorch.")
    parser.add_argument("source", type=pathlib.Path, help="a checkout of state-spaces/mamba")
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--architecture", default="sm_90")
    options = parser.parse_args()
    said = build(options.source, options.nvcc, options.architecture)
    for part in said.split("Compiling entry function")[1:]:
        kernel = re.search(r"selective_scan_(fwd|bwd)_kernel\w*?ILi(\d+)ELi(\d+)", part)
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        used = re.search(r"Used (\d+) registers", part)
        if kernel and spills and used:
            print(f"{kernel[1]}, {kernel[2]} threads of {kernel[3]} steps: {used[1]} registers, {spills[0]}")
    print(f"{LIBRARY}: {LIBRARY.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
