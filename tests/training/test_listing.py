import jax.numpy as jnp

from bdgf_jax import cli
from bdgf_jax.training.checkpoints import Checkpoints
from bdgf_jax.training.listing import list_checkpoints
from bdgf_jax.training.state import initial_state


def save(folder, scores):
    with Checkpoints(folder, keep=9) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, initial_state({"kernel": jnp.ones(3)}, (), ()), score)


def test_each_is_listed_with_step_metric_and_health(tmp_path):
    save(tmp_path, {9: 0.5, 10: 0.75, 100: None, 200: 0.25})
    (tmp_path / "200" / "ema" / "manifest.ocdbt").write_bytes(b"")
    (tmp_path / "300.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "deleted").mkdir()
    listed = {entry.name: (entry.score, entry.health, entry.roles) for entry in list_checkpoints(tmp_path)}
    assert listed == {
        "9": (0.5, "whole", ()),
        "10": (0.75, "whole", ("best",)),
        "100": (None, "whole", ("last",)),
        "200": (None, "damaged: ema/manifest.ocdbt differs from what was written", ()),
        "300.orbax-checkpoint-tmp": (None, "unfinished", ()),
    }
    assert list(listed) == ["9", "10", "100", "200", "300.orbax-checkpoint-tmp"]


def test_the_command_lists_every_stage_of_a_run(tmp_path, capsys):
    save(tmp_path / "pretrain" / "checkpoints", {10: None})
    save(tmp_path / "train" / "checkpoints", {5: 0.5})
    assert cli.main(["checkpoints", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split() for line in said] == [
        ["stage", "step", "metric", "MB", "health"],
        ["pretrain", "10", "-", "0.0", "whole,", "last"],
        ["train", "5", "0.5000", "0.0", "whole,", "last,", "best"],
    ]


def test_a_folder_without_checkpoints_is_an_error(tmp_path, capsys):
    assert cli.main(["checkpoints", str(tmp_path / "nowhere")]) == 2
    assert "holds no checkpoints" in " ".join(capsys.readouterr().err.split())
