"""What `modality_balance.py` measures of one DDPM: how well it restores each modality, and what its features know."""

import dataclasses
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from bdgf_jax import extraction, mapping
from bdgf_jax.configuration import Config
from bdgf_jax.diffusion.denoiser import build_denoiser
from bdgf_jax.diffusion.features import fit_feature_statistics, scene_features, standardise_features
from bdgf_jax.diffusion.masking import TIME_BINS, update_skills
from bdgf_jax.diffusion.objective import clean_estimate
from bdgf_jax.diffusion.schedule import add_noise, noise_schedule
from bdgf_jax.evaluation.metrics import agreement
from bdgf_jax.fitting import pretrain, train
from bdgf_jax.run import Run, open_run
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.patches import gather
from bdgf_jax.scenes.scene import Scene
from experiments.real_scenes import configured, probe

SPLITS = 3  # that a DDPM's features are probed on
CROPS = 64  # of the draw that skills are measured on


@dataclasses.dataclass(frozen=True, eq=False)
class Programs:
    """What all DDPMs of the same modalities share, compiled once.

    Attributes:
      extract: features of a tile, see `tile_activations`.
      arrays: that `extract` reads.
      denoise: (parameters, noisy crops, t, unseen pixels) -> predictions by modality.
    """

    extract: Callable
    arrays: dict[str, Any]
    denoise: Callable


def programs(run: Run) -> Programs:
    """The programs for DDPMs of the run's modalities."""
    graph, _ = build_denoiser(run.config.diffusion, run.channels, 0)
    denoise = jax.jit(lambda parameters, *inputs: nnx.merge(graph, parameters)(*inputs)[0])
    return Programs(*extraction.feature_extractor(run, graph, extraction.scene_tile(run)), denoise)


def measure(run: Run, seed: int, shared: Programs) -> dict[str, Any]:
    """Pre-trains one DDPM and measures it.

    Args:
      run: of the cell; its images are the modalities that the DDPM knows.
      seed: of the splits.
      shared: the programs for these modalities.
    """
    began = time.monotonic()
    parameters = pretrain(run)
    modalities, scenes = tuple(run.images), splits(run.config, seed)
    seen = [which for count in range(1, len(modalities) + 1) for which in itertools.combinations(modalities, count)]
    record: dict[str, Any] = {"oa": {}, "aa": {}}
    for which in seen:
        levels = features_seeing(run, parameters, shared, which)
        figures = [probe_scores(scene, levels) for scene in scenes]
        for figure in ("oa", "aa"):
            record[figure]["+".join(which)] = round(float(np.mean([each[figure] for each in figures])), 6)
    return record | {
        "skill_visible": skills(run, parameters, shared, hidden=()),
        "skill_hidden": {name: skills(run, parameters, shared, hidden=(name,))[name] for name in modalities},
        "masking": masking_by_step(run.workdir / "pretrain" / "log.jsonl", modalities),
        "seconds": round(time.monotonic() - began, 1),
    }


def splits(config: Config, seed: int) -> list[Scene]:
    """The scene under the splits of a seed."""
    chosen = range(seed * SPLITS, (seed + 1) * SPLITS)
    return [load_scene(configured(config, scene__split__seed=number).scene) for number in chosen]


def features_seeing(
    run: Run, parameters: nnx.State, shared: Programs, seen: Sequence[str]
) -> tuple[Float[np.ndarray, "h w _ _"], ...]:
    """Standardised features of the whole scene by a DDPM from which all modalities but these are hidden."""
    arrays, shape, tile = shared.arrays, run.scene.shape, extraction.scene_tile(run)
    valid = {name: pixels if name in seen else jnp.zeros_like(pixels) for name, pixels in arrays["valid"].items()}
    levels = scene_features(shared.extract, parameters, arrays | {"valid": valid}, shape, tile=tile)
    return standardise_features(levels, fit_feature_statistics(levels, run.scene.valid))


def probe_scores(scene: Scene, levels: tuple[np.ndarray, ...]) -> dict[str, float]:
    """Accuracies of the linear probe on the split of this scene."""
    return agreement(scene.labels[scene.masks["test"]], probe(scene, levels))


def skills(run: Run, parameters: nnx.State, shared: Programs, *, hidden: Sequence[str]) -> dict[str, float]:
    """1 - MSE(x̂_0) / Var(x_0) of each modality, mean over the bins of t, on the same draw for every DDPM.

    Args:
      run: of the DDPM.
      parameters: of the denoiser.
      shared: the programs for its modalities.
      hidden: modalities of which nothing is seen.
    """
    config, names = run.config.diffusion, tuple(run.images)
    schedule = noise_schedule(config.schedule, config.timesteps)
    pixels = np.argwhere(run.scene.valid).astype(np.int32)
    centres = pixels[np.random.default_rng(0).choice(len(pixels), CROPS)]
    arrays = jax.tree.map(jnp.asarray, {"images": run.images, "valid": run.valid})
    crops = gather(arrays, jnp.asarray(centres), run.config.pretrain.crop)
    t = jnp.asarray(np.linspace(0, config.timesteps - 1, CROPS).round().astype(np.int32))
    images = {name: crops["images"][name] for name in names}
    key = jax.random.key(0)
    noise = {n: jax.random.normal(jax.random.fold_in(key, i), images[n].shape) for i, n in enumerate(names)}
    noisy = add_noise(schedule, images, noise, t)
    unseen = {name: jnp.ones_like(crops["valid"][name]) if name in hidden else ~crops["valid"][name] for name in names}
    outputs = shared.denoise(parameters, noisy, t, unseen)
    signal, sigma = schedule.signal(t)[:, None, None, None], schedule.noise(t)[:, None, None, None]
    errors, squares = [], []
    for name in names:
        at_visible, at_hidden = outputs[name]
        estimate = clean_estimate(config.target, at_visible, noisy[name], signal, sigma)
        estimate = at_hidden if name in hidden else estimate
        total = lambda values, valid=crops["valid"][name]: jnp.where(valid, values.sum(-1), 0.0).sum((1, 2))
        errors.append(total((estimate - images[name]) ** 2))
        squares.append(total(images[name] ** 2))
    start = jnp.zeros((len(names), TIME_BINS))
    skill = update_skills(start, jnp.stack(errors), jnp.stack(squares), t, config.timesteps, decay=0.0).mean(-1)
    return {name: round(float(value), 6) for name, value in zip(names, skill)}


def masking_by_step(log: pathlib.Path, modalities: Sequence[str]) -> dict[str, list]:
    """Share of each modality's pixels that was hidden, at the logged steps."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines = [line for line in lines if f"masking/{modalities[0]}" in line]
    shares = {name: [round(line[f"masking/{name}"], 4) for line in lines] for name in modalities}
    return {"step": [line["step"] for line in lines]} | shares


def fused_accuracy(run: Run, seed: int) -> dict[str, float]:
    """OA and AA of the classifier that the cell's DDPM guides, on the first of the seed's splits.

    Args:
      run: of the cell; its DDPM is pre-trained.
      seed: of the splits and of the classifier's training.
    """
    guidance = extraction.features(run)
    config = configured(run.config, scene__split__seed=seed * SPLITS, train__seed=seed)
    guided = open_run(config, run.workdir / "classifier")
    train(guided, guidance)
    test = guided.scene.masks["test"]
    figures = agreement(guided.scene.labels[test], mapping.predict(guided, guidance, where=test)["fused"][test])
    return {figure: round(float(figures[figure]), 6) for figure in ("oa", "aa")}
