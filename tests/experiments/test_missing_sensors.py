import json

import pytest

from experiments import missing_sensors
from experiments.missing_sensors import FOREST, METHODS, NOTHING

pytestmark = pytest.mark.slow
DROPOUT = "masking_dropout"


def test_a_trial_scores_every_method_with_every_sensor_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(missing_sensors, "use_compilation_cache", lambda: None)
    monkeypatch.setattr("bdgf_jax.voting.TREES", 20)
    # The one that takes the longest way: the others differ by two fields of the config.
    monkeypatch.setattr(missing_sensors, "METHODS", {DROPOUT: METHODS[DROPOUT]})
    arguments = ["--config", "demo", "--quick", "--workdir", str(tmp_path), "--out", str(tmp_path / "found.json")]
    assert missing_sensors.main(arguments) == 0
    record = json.loads((tmp_path / "found.json").read_text())
    assert set(record["methods"]) == {DROPOUT, FOREST}
    for by_missing in record["methods"].values():
        assert list(by_missing) == [NOTHING, "hsi", "sar", "height"]
        assert all(0.0 <= figures["oa"][0] <= 1.0 for figures in by_missing.values())
    of_forest = record["methods"][FOREST]
    assert of_forest[NOTHING]["oa"][0] > max(of_forest[name]["oa"][0] for name in ("hsi", "sar", "height"))
    assert "| masking_dropout | " in capsys.readouterr().out
