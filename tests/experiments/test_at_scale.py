import json
import sys

import pytest

from experiments import at_scale

PLAN = {
    "h100-1": {
        "features": {"per_second_per_chip": 3000.0, "bound": "compute"},
        "predict": {"per_second_per_chip": 1000.0, "bound": "memory"},
    },
    "v5e-1": {"features": {"per_second_per_chip": 3000.0, "bound": "compute"}},
}
MAP = {"stretch": "map", "config": "demo", "device": "cpu x1", "fraction_of_matmul_peak": 0.25}


def test_stretches_follow_each_other_and_devices_share_out_the_area():
    (row,) = at_scale.planned(PLAN)
    assert row["pixels_per_second"] == pytest.approx(750.0)
    assert row["bound"] == "memory of prediction"
    germany = at_scale.hours(750.0)["Germany at 10 m"]
    assert germany["hours"] == pytest.approx(3.6e9 / 750 / 3600)
    assert germany["devices_for_a_day"] == 56


def test_of_measured_rates_the_latest_of_all_branches_counts():
    rate = lambda branches, stride, value: MAP | {"branches": branches, "stride": stride, "pixels_per_second": value}
    rows = [rate(["cnn", "mamba"], 1, 5.0), rate(["cnn", "mamba"], 1, 7.0), rate(["cnn"], 1, 99.0)]
    rows.append(rate(["cnn", "mamba"], 3, 20.0))
    assert [row["pixels_per_second"] for row in at_scale.measured({"rows": rows})] == [7.0, 20.0]


def test_what_is_missing_is_said(tmp_path, monkeypatch, capsys):
    plan, out = tmp_path / "plan.json", tmp_path / "out.json"
    plan.write_text(json.dumps(PLAN))
    absent = tmp_path / "throughput.json"
    command = ["at_scale", "--plan", str(plan), "--throughput", str(absent), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    assert at_scale.main() == 0
    said = capsys.readouterr().out
    assert "no CPU row: there is no throughput.json yet" in said
    assert "no row of v5e-1" in said
    assert [row["device"] for row in json.loads(out.read_text())["rows"]] == ["h100-1"]
