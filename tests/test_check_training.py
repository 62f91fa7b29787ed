"""What the classifier's training would refuse is refused before the pre-training that comes first."""

import pytest

from bdgf_jax import caching, configuration, extraction
from bdgf_jax.cli import main
from bdgf_jax.diffusion.denoiser import build_denoiser
from bdgf_jax.run import open_run


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("classifier.fusion", "vote", "classifier.fusion is 'vote'; expected one of mean, head"),
        ("classifier.stages", 1, "set classifier.stages to 3"),
        ("classifier.directions", "two", "two"),
        ("classifier.dtype", "float8", "float8"),
        ("features.levels", "(7,)", "7"),
        ("features.timesteps", "(5000,)", "5000"),
        ("train.class_balance", "fair", "train.class_balance is 'fair'; expected one of"),
        ("train.batch_size", 13, "13"),
        ("train.num_seeds", 0, "train.num_seeds must be 1 or more, got 0"),
        ("train.modality_dropout", 2.0, "expected 0 to 1, got 2.0"),
    ],
)
def test_a_mistake_about_the_classifier_is_told_before_the_pre_training(
    tmp_path, capsys, monkeypatch, field, value, message
):
    monkeypatch.setattr(caching, "use_compilation_cache", lambda: None)
    arguments = ["--config", "demo:tiny", "--workdir", str(tmp_path / "run"), f"--config.{field}={value}"]
    assert main(["run", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "pretrain").exists()


def test_the_shapes_of_features_are_known_without_them(tmp_path):
    overrides = ["--config.features.source=untrained", "--config.features.timesteps=(5,9)"]
    run = open_run(configuration.load("demo:tiny", overrides), tmp_path)
    shapes = [level.shape for level in extraction.feature_shapes(run)]
    graph, parameters = build_denoiser(run.config.diffusion, run.channels, 0)
    levels = extraction.raw_features(run, graph, parameters)
    assert shapes == [level.shape for level in (*levels, *extraction.context_features(run))]
