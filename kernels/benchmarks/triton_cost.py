"""Resources of the Triton kernels on an A100 that is not there: `python -m benchmarks.triton_cost`.

XLA compiles ahead of time for sm_80 and dumps the PTX; ptxas says what registers and shared memory the kernels take and
what they spill. bfloat16, an 11 x 11 patch, 128 channels, 16 states, softplus, bias and D.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from benchmarks import deviceless

SHAPE = "ours_121"
A100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 167936
  threads_per_core_limit: 2048 core_count: 108 fpus_per_core: 64 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 2039000000000 l2_cache_size: 41943040
  clock_rate_ghz: 1.41 device_memory_size: 84978434048 shared_memory_per_block_optin: 166912
  cuda_compute_capability { major: 8 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 3 patch: 0 } device_description_str: "NVIDIA A100-SXM4-80GB"
"""


def compile_here() -> None:
    """Compiles both passes, in a process that XLA has been told in what to write down."""
    import jax
    from jax.experimental import topologies
    from jax.sharding import AbstractDevice, AbstractMesh

    chip = topologies.get_topology_desc(platform="cuda", target_config=A100, topology="1x1x1").devices[0]
    place = jax.sharding.SingleDeviceSharding(chip)
    _, gradients, arguments = deviceless.counted_call(SHAPE, "triton", place)
    # The lowering asks the mesh which GPU it is for.
    device = AbstractDevice(device_kind=chip.device_kind, num_cores=108, platform="gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        jax.jit(gradients).lower(arguments[0], *arguments).compile()


def measure() -> dict[str, dict[str, int]]:
    """Compiles in a process of its own, since XLA reads its flags once, and assembles what it dumped."""
    folder = deviceless.tools()
    if folder is None:
        raise SystemExit("This needs jax-cuda13-plugin, jax-cuda13-pjrt and nvidia-cuda-nvcc, -nvdisasm, nvidia-nvvm.")
    with tempfile.TemporaryDirectory() as work:
        flags = (
            f"--xla_gpu_cuda_data_dir={folder} --xla_gpu_autotune_level=0 --xla_dump_to={work} --xla_dump_emitter_re=.*"
        )
        # What is found in a cache is not compiled, and dumps nothing.
        told = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false"}
        command = [sys.executable, "-m", "benchmarks.triton_cost", "--compile-here"]
        here = pathlib.Path(__file__).parents[1]
        done = subprocess.run(command, cwd=here, env=os.environ | told, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"It does not compile:\n{done.stderr[-4000:]}")
        kernels = [path for path in pathlib.Path(work).glob("*.ptx") if ".entry selective_scan_" in path.read_text()]
        dumps = [path.read_text() for path in pathlib.Path(work).glob("*selective_scan*triton-to-llvm.txt")]
        return {kind: row for path in kernels for kind, row in resources(path, folder, dumps).items()}


def resources(source: pathlib.Path, folder: pathlib.Path, dumps: list[str]) -> dict[str, dict[str, int]]:
    """What ptxas says of the kernel in a PTX file, by the pass that it is, and Triton of its shared memory."""
    ptx = source.read_text()
    kind = re.findall(r"\.entry selective_scan_(\w+)\(", ptx)[0]
    used = deviceless.ptxas(source, source.with_suffix(".cubin"), folder, "sm_80")
    row = {**used, "atomics": len(re.findall(r"\b(?:atom|red)\.", ptx))}
    for text in dumps:
        shared = re.findall(r"ttg\.shared = (\d+)", text)
        if f"selective_scan_{kind}" in text and shared:
            row["shared_memory"] = int(shared[-1])
    return {kind: row}


def main() -> None:
    """Prints the table and, where asked, records it beside the others."""
    parser = argparse.ArgumentParser(description="Registers, spills and shared memory of the Triton kernels.")
    parser.add_argument("--record", action="store_true", help=f"put the table into {deviceless.RECORD.name}")
    parser.add_argument("--compile-here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile_here:
        compile_here()
        return
    table = {"ampere": measure()}
    print(json.dumps(table, indent=2))
    if options.record:
        deviceless.record(table)


if __name__ == "__main__":
    main()
