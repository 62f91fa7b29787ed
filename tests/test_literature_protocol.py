"""The literature protocol looks at the test pixels and changes nothing but its own column."""

import json

import pytest

from bdgf_jax import configuration, fitting, mapping, scoring
from bdgf_jax.errors import InputError
from bdgf_jax.run import open_run

pytestmark = pytest.mark.slow

# One branch without diffusion features: what is tested is which step is reported.
SHORT = {
    "features.source": "none",
    "classifier.branches": ("cnn",),
    "classifier.stages": 1,
    "train.steps": 30,
    "train.evaluate_every": 10,
}


def mapped(workdir, looks):
    config = configuration.load("demo:tiny")
    config.update_from_flattened_dict(SHORT | {"evaluate.literature_protocol": looks})
    run = open_run(config, workdir)
    fitting.train(run, ())
    mapping.write_maps(run, mapping.predict(run, ()))
    return run, scoring.evaluate(run)


def test_the_map_is_that_of_a_run_which_did_not_look(tmp_path):
    run, looked = mapped(tmp_path / "looks", True)
    blind_run, blind = mapped(tmp_path / "blind", False)
    for name in ("map.tif", "confidence.tif"):
        assert (run.workdir / name).read_bytes() == (blind_run.workdir / name).read_bytes()
    own = {"literature_protocol", "seconds", "peak_bytes"}
    assert {name: looked[name] for name in looked if name not in own} == {
        name: blind[name] for name in blind if name not in own
    }
    log = [json.loads(line) for line in (run.workdir / "train/log.jsonl").read_text().splitlines()]
    tested = [line["test/oa"] for line in log if "test/oa" in line]
    assert len(tested) == 3
    assert looked["literature_protocol"]["oa"] == max(tested)
    assert blind["literature_protocol"] is None
    assert "test/" not in (blind_run.workdir / "train/log.jsonl").read_text()
    assert not (run.workdir / mapping.UNCERTAINTY).exists()  # one branch has nobody to disagree with

    blind_run.config.evaluate.literature_protocol = True
    with pytest.raises(InputError, match="needs a training that watched the test pixels"):
        scoring.evaluate(blind_run)
