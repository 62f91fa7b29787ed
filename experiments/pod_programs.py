"""Compiles the programs of a run for chips that are not there, and counts what each asks of a chip.

    PYTHONPATH=.venv/3.12/compilers python experiments/pod_programs.py v5e-8 train

prints a program's counts as JSON. `pod_plan.py` runs it, in a process for each program: libtpu knows one topology at a
time. The arrays never exist: programs are compiled from their shapes and where they shall lie.

FLOPs and bytes are those of XLA's cost model for a chip's part of the compiled program, and for a GPU, of which it does
not tell, those of `program_costs.py`: products alone, and an upper bound of the bytes. Neither sees inside the kernels
of the selective scan, whose calls are listed beside it. The body of a loop is counted once, and of these programs only
the feature extractor's draws of noise are one: they are multiplied here.
"""

import argparse
import json
import math
import os
import pathlib
import re
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name
sys.path.append(str(pathlib.Path(__file__).parent.parent / "kernels"))  # where the description of an H100 lies

from experiments.program_costs import bytes_moved, product_flops

TOPOLOGIES = {"v5e-1": "v5e:2x2", "v5e-8": "v5e:2x4", "v5e-256": "v5e:16x16", "v6e-1": "v6e:2x2", "v6e-8": "v6e:2x4"}
"""TPUs by name; those of one chip are compiled for the first of the smallest slice that libtpu describes."""
HOPPER = "h100-1"
TRAININGS = ("pretrain", "train")
PREDICTION = ("features", "predict")
CONFIG = "augsburg_paper"
SHAPE = (332, 485)
"""Rows and columns of Augsburg."""
CHANNELS = {"hsi": 30, "sar": 4}
"""Of its modalities, after whitening."""
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
KERNELS = ("tpu_custom_call", "mosaic_gpu", r"__gpu\$xla\.gpu\.triton")
"""What Pallas kernels are called in a compiled program."""
BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "s32": 32, "u32": 32, "s8": 8, "u8": 8, "s64": 64, "u64": 64}


def main() -> None:
    """Compiles one program and prints its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=[*TOPOLOGIES, HOPPER])
    parser.add_argument("program", choices=[*TRAININGS, *PREDICTION])
    parser.add_argument("--config", default=CONFIG)
    options, overrides = parser.parse_known_args()
    devices = devices_of(options.target)
    print(json.dumps(counted(options.config, overrides, options.program, devices)))


def devices_of(target: str) -> list:
    """The chips of a target. It has to come before anything else that loads jax's backends.

    Raises:
      SystemExit: there is no compiler for it.
    """
    # No chip is taken, so that others may compile meanwhile.
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    if target == HOPPER:
        from benchmarks import deviceless

        folder = deviceless.tools()
        if folder is None:
            raise SystemExit("No compiler for Hopper: put the folder that `make compilers` fills on PYTHONPATH.")
        deviceless.prepare(folder)
        os.environ.pop("MOSAIC_GPU_DUMP_PTX")
        return list(deviceless.hopper().device_set)
    from jax.experimental import topologies

    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[target]).devices
    except Exception as error:
        raise SystemExit(f"No compiler for TPUs: put what `make compilers` fills on PYTHONPATH ({error}).") from error
    return list(devices)[: int(target.split("-")[1])]


def counted(name: str, overrides: list[str], program: str, devices: list) -> dict[str, Any]:
    """Compiles a program of a config for these devices, at the config's batch on each, and counts.

    Returns:
      what `pod_plan.estimate` works on.
    """
    from bdgf_jax import configuration

    config = configuration.load(name, overrides)
    batches = {"pretrain": config.pretrain.batch_size, "train": config.train.batch_size}
    batches |= {"features": config.features.tile**2, "predict": config.predict.batch_size}
    config.pretrain.batch_size *= len(devices)
    config.train.batch_size *= len(devices)
    run = paper_run(config)
    build = training_program if program in TRAININGS else prediction_program
    traced, parameters, times = build(run, program, devices)
    compiled = traced.lower().compile()
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    if cost is None:  # as of GPUs that are not there
        flops = product_flops(traced.jaxpr) / len(devices) / times
        cost = {"flops": flops, "bytes accessed": bytes_moved(text)}
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "chips": len(devices),
        "batch_per_chip": batches[program],
        "unit": "pixels" if program in PREDICTION else "samples",
        "parameters": parameters,
        "bytes_per_chip": held + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        "flops": cost["flops"] * times,
        "bytes": cost["bytes accessed"] * times,
        "collectives": collectives(text, len(devices)),
        "kernels": len(re.findall(rf"custom_call_target=\"({'|'.join(KERNELS)})", text)),
        "scan": scan_calls(config, batches[program]) if program in ("train", "predict") else None,
    }


def paper_run(config: Any) -> Any:
    """A run on a scene of the right sizes, whose arrays take no memory."""
    import numpy as np

    from bdgf_jax.run import Run
    from bdgf_jax.scenes.scene import LandCover, Modality, Scene, empty_masks

    everywhere = np.ones(SHAPE, bool)
    images = {name: nothing(*SHAPE, count) for name, count in CHANNELS.items()}
    classes = tuple(LandCover(name, "#000000") for name in config.scene.labels.names.values())
    labels = np.tile(np.arange(SHAPE[1], dtype=np.int32) % len(classes), (SHAPE[0], 1))
    scene = Scene(
        name="augsburg",
        modalities={name: Modality(image, everywhere, ()) for name, image in images.items()},
        labels=labels,
        masks=empty_masks(SHAPE) | {"train": everywhere},
        classes=classes,
        georeference=None,
    )
    return Run(config, pathlib.Path(), scene, {}, images)


def nothing(*shape: int, dtype: Any = "float32") -> Any:
    """Zeros without memory."""
    import numpy as np

    return np.broadcast_to(np.zeros((), dtype), shape)


def guidance_of(config: Any) -> tuple:
    """Feature maps of the scene, as shapes go."""
    import ml_dtypes

    widths = [config.diffusion.width * multiplier for multiplier in reversed(config.diffusion.multipliers)]
    times = len(config.features.timesteps)
    return tuple(nothing(*SHAPE, times, widths[level], dtype=ml_dtypes.bfloat16) for level in config.features.levels)


def training_program(run: Any, stage: str, devices: list) -> tuple[Any, int, int]:
    """One step of a training on a mesh of the devices, as `fit` would compile it; how many parameters; no loop."""
    import jax
    import jax.numpy as jnp

    from bdgf_jax.fitting import pretraining_task, training_task
    from bdgf_jax.training.mesh import make_mesh, replicated, split_over_data
    from bdgf_jax.training.optimiser import make_optimiser
    from bdgf_jax.training.placement import Placement
    from bdgf_jax.training.state import initial_state
    from bdgf_jax.training.step import make_step

    config = run.config
    task = pretraining_task(run) if stage == "pretrain" else training_task(run, guidance_of(config))
    mesh = make_mesh(config.mesh.to_dict(), devices)
    placed = Placement(task.parameters, mesh, config.placement)
    optimiser = make_optimiser(config[stage], placed.layout)
    moments = lambda: optimiser.init(jnp.zeros(placed.layout.size))
    whole = replicated(mesh)
    shapes = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree)
    begin = lambda parameters, carry: initial_state(parameters, carry, moments())
    state = placed.described(jax.eval_shape(begin, task.parameters, task.carry))
    centres = jax.ShapeDtypeStruct((config[stage].batch_size, 2), jnp.int32, sharding=split_over_data(mesh))
    key = jax.eval_shape(lambda: jax.random.key(0))
    step: Any = make_step(task.objective, optimiser, placed, config[stage])
    traced = step.trace(state, shapes(task.data), centres, shapes(key))
    return traced, placed.layout.size, 1


def prediction_program(run: Any, program: str, devices: list) -> tuple[Any, int, int]:
    """The features of a tile, or the classes of a batch of pixels; how many parameters, and turns of its loop."""
    import jax
    import jax.numpy as jnp

    from bdgf_jax import extraction, mapping, networks
    from bdgf_jax.diffusion.denoiser import build_denoiser

    config, (device,) = run.config, devices
    here = jax.sharding.SingleDeviceSharding(device)
    shapes = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), tree)
    centres = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=here)
    size = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
    if program == "features":
        graph, parameters = build_denoiser(config.diffusion, run.channels, seed=0)
        activations: Any
        activations, arrays = extraction.feature_extractor(run, graph, config.features.tile)
        traced = activations.trace(shapes(parameters), shapes(arrays), centres(2))
        return traced, size(parameters), config.features.draws
    guidance = guidance_of(config)
    graph, parameters = networks.build(run, guidance)
    classify: Any = mapping.classifier_function(run, graph)
    data = shapes({"images": run.images, "guidance": guidance})
    traced = classify.trace(shapes(parameters), data, centres(config.predict.batch_size, 2))
    return traced, size(parameters), 1


def scan_calls(config: Any, batch: int) -> dict[str, int]:
    """What the Mamba branch scans for a batch: its calls, and the axes of each."""
    classifier = config.classifier
    # Directions that share out the channels are one scan of all of them.
    directions = 4 if classifier.directions == "four" else 1
    width = round(classifier.width * classifier.expansion)
    axes = {"b": batch, "l": classifier.patch**2, "d": width, "n": classifier.state}
    return {"calls": classifier.stages, "directions": directions, **axes}


def collectives(text: str, chips: int) -> list[dict[str, Any]]:
    """The collectives in a compiled program: kind, number types, bytes of the result, and devices that take part."""
    found = []
    for line in text.splitlines():
        match = re.search(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(", line)
        if match is None:
            continue
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
        arrays = [(kind, math.prod(int(n) for n in dims.split(",") if n)) for kind, dims in arrays if kind in BITS]
        if match[3] and match[2] != "all-reduce":  # the start of the others lists operands and results
            arrays = arrays[len(arrays) // 2 :]
        sizes: dict[str, int] = {}
        for kind, count in arrays:
            sizes[kind] = sizes.get(kind, 0) + count * BITS[kind] // 8
        found.append({"kind": match[2], "bytes": sum(sizes.values()), "by_type": sizes, "devices": group(line, chips)})
    return found


def group(line: str, chips: int) -> int:
    """How many devices a collective joins."""
    if listed := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(listed[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    return chips


if __name__ == "__main__":
    main()
