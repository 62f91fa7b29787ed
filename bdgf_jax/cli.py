"""The command line: one subcommand for each stretch of the road from a scene to a map, and `run` for all of it."""

import argparse
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from bdgf_jax import configuration
from bdgf_jax.configuration import Config
from bdgf_jax.errors import InputError

if TYPE_CHECKING:
    from bdgf_jax.run import Run

COMMANDS = {
    "run": "the whole road: pre-train, features, train, predict, evaluate, report",
    "inspect": "show what the scene holds before anyone trains: modalities, labels, split, findings, a picture",
    "pretrain": "pre-train the multimodal DDPM, without labels",
    "features": "compute the diffusion features of the scene with the pre-trained DDPM",
    "train": "train the three guided branches",
    "predict": "write the land-cover map and its confidence as GeoTIFF",
    "evaluate": "score the map on the test pixels and write the report",
    "export": "write the trained model into one folder, for `bdgf predict --model` on other scenes",
    "checkpoints": "list the checkpoints of a run, with step, metric and state of health",
}

MAPS_WITHOUT = ("predict", "evaluate")  # a scene that lacks sensors
SYMBOLS = {"oa": "OA", "aa": "AA", "kappa": "κ"}

EPILOGUE = """\
examples:
  bdgf run --config demo                                a synthetic scene, a few minutes on two cores
  bdgf inspect --config my_scene.py                     look before you train
  bdgf run --config my_scene.py --workdir runs/mine     the same command again continues where it stopped
  bdgf run --config demo --config.train.steps=200       any field of the config can be overridden
  bdgf predict --config demo --config.predict.probabilities=True
  bdgf predict --config my_scene.py --model my_model --config.predict.tile=512    a scene larger than memory
  bdgf predict --config my_scene.py --model my_model --scenes 'tiles/*' --out maps
  bdgf predict --config my_scene.py --without sar       the sensor had nothing to give

configs: {configs}. A config is a Python file with get_config(); `base` explains every field.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0 when it went well, 2 when the user can put it right (the message says how), 1 when some of many
    scenes could not be mapped."""
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    console = Console(stderr=True, highlight=False)
    try:
        if options.command == "checkpoints":
            checkpoints(options.folder)
            return 0
        config = configuration.load(options.config, overrides)
        take_without(options, config)
        name = options.config.partition(":")[0]
        workdir = options.workdir or pathlib.Path("runs") / pathlib.Path(name).stem
        if options.command == "inspect":
            inspect(config, workdir)
        elif getattr(options, "scenes", None):
            return map_many(options, config, workdir)
        else:
            walk(options, config, workdir)
    except InputError as error:
        console.print(f"[bold red]bdgf {options.command}:[/] ", end="")
        console.print(str(error), markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print(f"bdgf {options.command}: interrupted. The same command continues from the last checkpoint.")
        return 130
    return 0


def take_without(options: argparse.Namespace, config: Config) -> None:
    """Notes in the config which modalities the scene is mapped without.

    Raises:
      InputError: something is to be trained without them.
    """
    if given := getattr(options, "without", None):
        config.predict.without = tuple(given)
    if config.predict.without and options.command not in (*MAPS_WITHOUT, "inspect", "export"):
        raise InputError(
            f"predict.without is {', '.join(config.predict.without)}, and `bdgf {options.command}` trains, which takes"
            " all modalities: leave it out, and map by `bdgf predict --without`."
        )


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options that belong to the command line, and overrides that belong to the config."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", required=True, metavar="NAME_OR_FILE", help="a named config, or the path of one")
    shared.add_argument("--workdir", type=pathlib.Path, metavar="DIR", help="results and checkpoints (runs/NAME)")
    parser = argparse.ArgumentParser(
        prog="bdgf",
        description="Diffusion-guided multimodal land-cover classification, from a scene to a map.",
        epilog=EPILOGUE.format(configs=", ".join(configuration.config_names())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=Version, nargs=0, help="show versions and devices, and leave")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        added = commands.add_parser(
            name,
            parents=[] if name == "checkpoints" else [shared],
            help=purpose,
            description=purpose[0].upper() + purpose[1:] + ".",
            epilog=EPILOGUE.format(configs=", ".join(configuration.config_names())),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == "evaluate":
            added.add_argument("--map", type=pathlib.Path, metavar="FILE", help="another map than the run's map.tif")
        if name in MAPS_WITHOUT:
            text = "modalities whose sensors have nothing to give; their files are not read"
            added.add_argument("--without", nargs="+", metavar="NAME", help=text)
        if name == "predict":
            added.add_argument("--model", type=pathlib.Path, metavar="DIR", help="a trained model for another scene")
            text = "many scenes, each in a folder as scene.folder: a folder of these, a glob, or a VRT of tiles"
            added.add_argument("--scenes", metavar="WHERE", help=text)
            added.add_argument("--out", type=pathlib.Path, metavar="DIR", help="their maps, a folder for each scene")
        if name == "export":
            added.add_argument("--out", type=pathlib.Path, metavar="DIR", required=True, help="the model's new folder")
        if name == "checkpoints":
            added.add_argument("folder", type=pathlib.Path, metavar="DIR", help="the workdir of a run")
        elif name != "inspect":
            added.add_argument("--force", action="store_true", help="go on with a run of another configuration")
    options, rest = parser.parse_known_args(arguments)
    if stray := [argument for argument in rest if not argument.startswith("--config.")]:
        parser.error(f"{stray[0]}: not understood. Overrides look like --config.train.steps=200.")
    if options.command == "predict" and (options.scenes is None) != (options.out is None):
        parser.error("--scenes and --out belong together: what is mapped, and the folder for the maps.")
    return options, rest


class Version(argparse.Action):
    """`--version`, which looks for devices only when it is asked."""

    def __call__(self, parser, *_) -> None:
        """Prints what runs here and leaves with status 0."""
        from bdgf_jax.versions import describe

        print(describe())
        parser.exit()


def walk(options: argparse.Namespace, config: Config, workdir: pathlib.Path) -> None:
    """Walks the stretches of the road that were asked for; SIGTERM ends it with status 0 and a word."""
    from bdgf_jax.caching import use_compilation_cache
    from bdgf_jax.training.distributed import failing_together, join_processes
    from bdgf_jax.training.preemption import heeding_preemption

    join_processes()
    use_compilation_cache()
    farewell = f"bdgf {options.command} was asked to stop (SIGTERM). The same command continues from what is saved."
    with heeding_preemption(farewell), failing_together():
        command(options, config, workdir)


def command(options: argparse.Namespace, config: Config, workdir: pathlib.Path) -> None:
    """Does what was asked, and what has to come before it."""
    from bdgf_jax import extraction
    from bdgf_jax.memory import noting_peak
    from bdgf_jax.run import open_run
    from bdgf_jax.training.distributed import first_before_others, first_only

    model = getattr(options, "model", None)
    if options.command == "predict" and config.predict.tile:
        from bdgf_jax.windowed import map_by_windows

        with first_only("map") as does:
            if does:
                print(f"Map: {map_by_windows(model, config, workdir, force=options.force)}")
        return
    without = config.predict.without if options.command in MAPS_WITHOUT else ()
    with first_before_others("open"):
        if model:
            from bdgf_jax.model import open_model

            run = open_model(model, config, workdir, force=options.force)
        elif config.features.checkpoint:
            from bdgf_jax.pretrained import open_guided

            run = open_guided(config, workdir, force=options.force, without=without)
        else:
            run = open_run(config, workdir, force=options.force, without=without)
    if options.command in ("run", "train"):
        from bdgf_jax.fitting import check_training

        check_training(run)
    trains = options.command in ("run", "pretrain", "features", "train")
    if trains and config.features.checkpoint:
        print(f"The DDPM is that of {config.features.checkpoint}.")
    elif trains and config.features.source == "ddpm":
        from bdgf_jax.fitting import pretrain

        with noting_peak(run.workdir, "pretrain"):
            pretrain(run)
    guidance = ()
    if options.command in ("run", "features", "train", "predict"):
        with first_before_others("features"), noting_peak(run.workdir, "features"):
            guidance = extraction.features(run)
        if options.command in ("run", "train"):
            from bdgf_jax.fitting import train

            with noting_peak(run.workdir, "train"):
                train(run, guidance)
    with first_only("map and report") as does:
        if does:
            show(options, run, guidance)


def show(options: argparse.Namespace, run: "Run", guidance: tuple[np.ndarray, ...]) -> None:
    """Predicts the map, scores and reports it, as far as was asked."""
    from bdgf_jax import mapping, scoring
    from bdgf_jax.evaluation.significance import told_p
    from bdgf_jax.memory import noting_peak

    predict_seconds = None
    if options.command == "export":
        from bdgf_jax.model import export_model

        export_model(run, options.out)
        print(f"Model: {options.out}")
    if options.command in ("run", "predict"):
        began = time.monotonic()
        with noting_peak(run.workdir, "predict"):
            predictions = mapping.predict(run, guidance)
            mapping.write_maps(run, predictions)
            scoring.score_members(run, guidance)
            scoring.score_vote(run, predictions)
            scoring.score_smoothing(run, predictions)
        predict_seconds = time.monotonic() - began
        print(f"Map: {run.workdir / mapping.MAP}")
    if options.command in ("run", "evaluate"):
        map_file = getattr(options, "map", None)
        metrics = scoring.evaluate(run, map_file, predict_seconds)
        report = scoring.report(run, metrics, map_file)
        kappa = "undefined" if metrics["kappa"] is None else f"{metrics['kappa']:.3f}"
        interval = metrics["oa_interval"]
        within = f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else ""
        print(
            f"OA {metrics['oa']:.1%}{within}   AA {metrics['aa']:.1%}   κ {kappa}   on {metrics['n_test']} test pixels"
        )
        if members := metrics["members"]:
            print(
                f"Map by the mean of {len(members['seeds'])} seeds; each by itself: "
                + "   ".join(f"{symbol} {mean_and_deviation(members[figure])}" for figure, symbol in SYMBOLS.items())
            )
        if test := metrics["against_own_map"]:
            print(
                f"Against {run.workdir / mapping.MAP}: {test['only_first']} test pixels are right only here,"
                f" {test['only_second']} only there, p {told_p(test['p'])} (McNemar)"
            )
        print(f"Report: {report}")


def mean_and_deviation(figure: dict) -> str:
    """As in 81.2 ± 0.4 %."""
    if figure["mean"] is None:
        return "undefined"
    return f"{100 * figure['mean']:.1f} ± {100 * figure['deviation']:.1f} %"


def map_many(options: argparse.Namespace, config: Config, workdir: pathlib.Path) -> int:
    """Maps this process's share of many scenes; 1 where some could not be mapped, of which it prints the reasons."""
    from bdgf_jax.caching import use_compilation_cache
    from bdgf_jax.training.distributed import take_share
    from bdgf_jax.training.preemption import heeding_preemption

    share = take_share()
    use_compilation_cache()
    with heeding_preemption("bdgf predict was asked to stop (SIGTERM). The same command goes on from what is mapped."):
        from bdgf_jax.many import find_scenes, map_scenes

        scenes = find_scenes(options.scenes, config.scene, config.predict.without)
        mapped = map_scenes(options.model or workdir, config, scenes, options.out, share)
    print(f"Maps: {options.out}  {mapped.new} new, {mapped.before} there before, {len(mapped.failures)} failed")
    if not mapped.failures:
        return 0
    width = max(map(len, mapped.failures))
    print("\nThese scenes could not be mapped:", file=sys.stderr)
    for name, reason in mapped.failures.items():
        print(f"  {name:<{width}}  {reason}", file=sys.stderr)
    return 1


def inspect(config: Config, workdir: pathlib.Path) -> None:
    """Prints what the scene holds and draws it.

    Raises:
      InputError: after everything is printed, where `run` would refuse the scene.
    """
    from bdgf_jax.run import check_writable
    from bdgf_jax.scenes.drawing import draw_scene
    from bdgf_jax.scenes.inspection import print_findings, print_inspection, refuse_errors
    from bdgf_jax.scenes.loading import load_scene
    from bdgf_jax.scenes.scene import SceneErrors

    check_writable(workdir)
    console = Console(highlight=False)
    try:
        scene = load_scene(config.scene)
    except SceneErrors as errors:
        print_findings(errors.findings, console)
        raise
    findings = print_inspection(scene, console, patch=configuration.side_seen(config))
    draw_scene(scene, workdir / "scene.png")
    print(f"Picture: {workdir / 'scene.png'}")
    refuse_errors(findings)


def checkpoints(folder: pathlib.Path) -> None:
    """Prints what checkpoints a run, or one stage of it, has left."""
    from bdgf_jax.training.listing import list_checkpoints

    found = sorted(folder.glob("*/checkpoints")) or [path for path in [folder / "checkpoints"] if path.is_dir()]
    if not found:
        raise InputError(f"{folder} holds no checkpoints: name the --workdir of a run.")
    print(f"{'stage':<10} {'step':>8} {'metric':>8} {'MB':>8}  health")
    for path in found:
        for entry in list_checkpoints(path):
            metric = "-" if entry.score is None else f"{entry.score:.4f}"
            health = ", ".join((entry.health, *entry.roles))
            print(f"{path.parent.name:<10} {entry.name:>8} {metric:>8} {entry.megabytes:>8.1f}  {health}")


if __name__ == "__main__":
    sys.exit(main())
