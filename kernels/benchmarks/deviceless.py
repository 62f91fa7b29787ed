"""Compiles kernels for devices that are not there, and reads the machine code of those for a Hopper GPU.

It needs jax's CUDA plugin (no driver, no CUDA libraries) and the wheels nvidia-cuda-nvcc, nvidia-nvvm and
nvidia-cuda-nvdisasm; `tools()` finds them. Run it in a process of its own: XLA reads its flags once.
"""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import tempfile

RECORD = pathlib.Path(__file__).parent / "results/static_cost.json"
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84978434048 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 3 patch: 0 } device_description_str: "NVIDIA H100 80GB HBM3"
"""


def tools() -> pathlib.Path | None:
    """Finds the folder of ptxas and nvdisasm that the wheels install; None where a part is missing."""
    plugins = importlib.util.find_spec("jax_plugins")
    if plugins is None or importlib.util.find_spec("jax_plugins.xla_cuda13") is None:
        return None
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations if spec and spec.submodule_search_locations else ():
        folder = pathlib.Path(place, "cu13")
        if all(folder.joinpath("bin", name).exists() for name in ("ptxas", "nvdisasm")):
            return folder
    return None


def prepare(folder: pathlib.Path) -> None:
    """Sets what XLA reads when it is loaded: before jax is imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = f" --xla_gpu_cuda_data_dir={folder} --xla_gpu_autotune_level=0"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flags
    os.environ["MOSAIC_GPU_DUMP_PTX"] = "1"


def record(tables: dict[str, dict]) -> None:
    """Puts what was counted, by device, beside what is recorded of others."""
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    RECORD.write_text(json.dumps(recorded | tables, indent=2) + "\n")


def counted_call(shape: str, implementation: str, place, dtype: str = "bfloat16") -> tuple:
    """The call whose kernels are counted, on every device: softplus, bias and D, rows and states in one type.

    Args:
      shape: its name.
      implementation: which runs it.
      place: the sharding of the arguments.
      dtype: of u, delta, B and C.

    Returns:
      the scan; its gradients, which take the cotangent of y first; the scan's arguments, shapes only.
    """
    import jax
    import jax.numpy as jnp
    from bdgf_kernels import selective_scan
    from bdgf_kernels.selective_scan.shapes import SHAPES

    b, length, d, n, _ = SHAPES[shape]
    array = lambda *shape, dtype=dtype: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=place)
    rows, states = array(b, length, d), array(b, length, n)
    by_channel = array(d, dtype="float32")
    arguments = (rows, rows, array(d, n, dtype="float32"), states, states, by_channel, by_channel)

    def scan(u, delta, A, B, C, D, bias):
        how = {"delta_bias": bias, "delta_softplus": True, "implementation": implementation}
        return selective_scan(u, delta, A, B, C, D, **how)

    def gradients(dy, *arguments):
        return jax.vjp(scan, *arguments)[1](dy)

    return scan, gradients, arguments


def hopper():
    """Returns a sharding on the H100 that is not there, for arguments' shapes."""
    import jax
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    return jax.sharding.SingleDeviceSharding(topology.devices[0])


def kernels_of(function, arguments) -> list[str]:
    """Compiles and returns the PTX of every kernel of ours that the program holds, as Mosaic prints it."""
    import jax

    with tempfile.TemporaryFile("w+") as printed:
        kept = os.dup(1)
        os.dup2(printed.fileno(), 1)
        try:
            jax.jit(function).lower(*arguments).compile()
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        printed.seek(0)
        text = printed.read()
    return [f".version{part}".split("\nptxas")[0] for part in text.split(".version")[1:]]


def assemble(ptx: str, folder: pathlib.Path) -> tuple[dict[str, int], list[str]]:
    """Assembles a kernel; returns its registers and spilled bytes, and its machine code, labels and all."""
    with tempfile.TemporaryDirectory() as work:
        source, cubin = pathlib.Path(work, "kernel.ptx"), pathlib.Path(work, "kernel.cubin")
        source.write_text(ptx)
        used = ptxas(source, cubin, folder, "sm_90a")
        code = subprocess.run([folder / "bin/nvdisasm", "-c", cubin], check=True, capture_output=True, text=True).stdout
    return used, code.splitlines()


def ptxas(source: pathlib.Path, cubin: pathlib.Path, folder: pathlib.Path, architecture: str) -> dict[str, int]:
    """Assembles PTX for an architecture; returns registers and spilled bytes."""
    command = [folder / "bin/ptxas", f"-arch={architecture}", "-v", source, "-o", cubin]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    if registers is None:
        raise RuntimeError(f"ptxas did not say how many registers it used:\n{said}")
    return {"registers": int(registers.group(1)), "spill_bytes": sum(map(int, spills))}
