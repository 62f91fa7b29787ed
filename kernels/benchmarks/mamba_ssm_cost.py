"""What mamba_ssm's CUDA kernels cost, counted as ours are: recorded numbers, and a way to count them again.

mamba_ssm 2.3.2.post1, its `selective_scan_cuda` extension built for sm_90, bfloat16, 16 states, no z. Counted from
nvdisasm of that code: the innermost loop that holds the exponentials, as often as it runs for the sequence's length,
and all that is outside it once; over the elements (b, l, d, n) of a thread. The blocks are those that its launcher
picks: 32 threads of 4 steps at L = 121, 128 threads of 16 steps at L = 2048. At L = 8192 the same threads do that four
times over, for as many elements in all: the numbers of L = 2048 stand in, which count the prologue too often. The times
are those of the model in `static_cost.py` without latencies, which flatters them.

`python -m benchmarks.mamba_ssm_cost FILE` disassembles a cubin, or, with cuobjdump at hand, a built extension, and
prints for every scan kernel its registers, its instructions, and those of each loop with exponentials.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import tempfile

from benchmarks import deviceless, sass

MILLISECONDS = {
    "ours_121": {"forward": 0.461, "forward_for_gradients": 0.461, "backward": 0.918},
    "lm_2048": {"forward": 0.392, "forward_for_gradients": 0.392, "backward": 1.167},
    "lm_8192": {"forward": 0.392, "forward_for_gradients": 0.392, "backward": 1.167},
}
"""The model's time; mamba_ssm keeps what its backward pass needs in either forward pass."""
INSTRUCTIONS = {
    "ours_121": {"forward": 53.8, "forward_for_gradients": 53.8, "backward": 107.3},
    "lm_2048": {"forward": 21.6, "forward_for_gradients": 21.6, "backward": 64.4},
    "lm_8192": {"forward": 21.6, "forward_for_gradients": 21.6, "backward": 64.4},
}
"""Of the whole kernel, an element; the backward kernel adds two atomic additions an element."""


def disassembled(file: pathlib.Path) -> list[str]:
    """Returns the machine code in a cubin or in every sm_90 cubin of an extension."""
    folder = deviceless.tools()
    nvdisasm = folder / "bin/nvdisasm" if folder else shutil.which("nvdisasm")
    if nvdisasm is None:
        raise SystemExit("This needs nvdisasm: pip install nvidia-cuda-nvdisasm.")
    if file.suffix == ".cubin":
        return subprocess.run([nvdisasm, "-c", file], check=True, capture_output=True, text=True).stdout.splitlines()
    if shutil.which("cuobjdump") is None:
        raise SystemExit("To take a built extension apart this needs CUDA's cuobjdump.")
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(["cuobjdump", "-arch", "sm_90", "-xelf", "all", file.resolve()], check=True, cwd=work)
        return [line for cubin in sorted(pathlib.Path(work).glob("*.cubin")) for line in disassembled(cubin)]


def main() -> None:
    """Prints a line for every scan kernel and each of its loops."""
    parser = argparse.ArgumentParser(description="Counts the instructions of mamba_ssm's scan kernels.")
    parser.add_argument("file", type=pathlib.Path, help="a cubin, or selective_scan_cuda's shared object")
    code = "\n".join(disassembled(parser.parse_args().file))
    for section in re.split(r"(?=^\s*\.section\s+\.text\.)", code, flags=re.MULTILINE):
        title = re.match(r"\s*\.section\s+\.text\.(\S*selective_scan_\w+_kernel\w*)", section)
        if title is None:
            continue
        found, labels = sass.instructions(section.splitlines())
        used = re.search(r"SHI_REGISTERS=(\d+)", section)
        print(f"{title.group(1)}: {used.group(1) if used else '?'} registers, {len(found)} instructions")
        for start, end in sass.loops(found, labels):
            print(f"  a loop of {end - start + 1}")


if __name__ == "__main__":
    main()
