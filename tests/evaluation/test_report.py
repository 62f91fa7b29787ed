import dataclasses
import re
from html.parser import HTMLParser

import pytest

from bdgf_jax.evaluation.assessment import assess
from bdgf_jax.evaluation.report import Drawings, count, duration, percent, write_report
from bdgf_jax.scenes.scene import Finding, Source

VOID = {"meta", "img", "br", "link", "input", "hr", "line", "polyline"}
SECTIONS = [
    "map", "modalities", "accuracy", "confidence", "split", "pretraining", "samples", "training", "time",
    "configuration",
]  # fmt: skip


class Page(HTMLParser):
    """Text, sections and attributes of a page, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sections, self.images, self.cells, self.text, self.addresses = [], [], [], [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [attributes[name] for name in ("src", "href", "srcset", "data") if name in attributes]
        if tag == "section":
            self.sections.append(attributes["id"])
        if tag == "img":
            self.images.append(attributes["alt"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def written(path, report):
    write_report(path / "report.html", **report)
    return (path / "report.html").read_text()


def test_every_section_is_there_and_the_page_needs_nothing_else(tmp_path, report):
    text = written(tmp_path, report)
    page = Page(text)
    assert page.sections == SECTIONS
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not re.search(r"@import|url\(|<link|<iframe|<script [^>]*src", text)
    assert "default-src 'none'" in text
    assert len(text) < 5e6


def test_what_users_call_things_is_shown_as_text(tmp_path, report):
    text = written(tmp_path, report)
    assert "<b>&<" not in text
    page = Page(text)
    for name in ("<b>&", "Two fields & a lake", "<script>alert(1)</script>", "train.folder = 'http://example.org/"):
        assert name in page.text


def test_figures_are_those_of_the_metrics(tmp_path, report):
    page = Page(written(tmp_path, report))
    metrics = report["metrics"]
    for name in ("oa", "aa", "kappa", "oa_without_overlap"):
        assert percent(metrics[name]) in page.text
    counts = [cell for cell in page.cells if cell in {count(n) for row in metrics["confusion"] for n in row}]
    flat = [count(n) for row in metrics["confusion"] for n in row]
    assert any(counts[i : i + 9] == flat for i in range(len(counts)))
    assert f"{count(metrics['overlapping_test_pixels'])} (" in page.text
    assert "1 min 15 s" in page.text
    assert "2 h 01 min" in page.text


def test_every_map_modality_and_sample_is_pictured(tmp_path, report):
    images = Page(written(tmp_path, report)).images
    for start in (
        "Reference",
        "Map",
        "Errors",
        "Confidence",
        "Disagreement",
        "msi",
        "sar",
        "dsm",
        "Training, validation",
    ):
        assert sum(image.startswith(start) for image in images) == 1
    assert sum(image.startswith("real ") for image in images) == 3 * 8 + 2 * 8
    assert sum(image.startswith("drawn from sar ") for image in images) == 2 * 8
    assert sum(image.startswith("drawn ") for image in images) == 3 * 8 + 2 * 8


def test_a_map_from_elsewhere_has_no_confidence(tmp_path, report):
    own = Page(written(tmp_path, report))
    metrics = report["metrics"] | {"ece": None, "confidence": None, "disagreement": None}
    unknown = {"confidence": None, "disagreement": None, "metrics": metrics}
    other = Page(written(tmp_path, report | unknown))
    assert [alt for alt in own.images if alt not in other.images] == [
        "Confidence: probability of the class shown",
        "Disagreement: of the branches",
    ]
    assert len(other.images) == len(own.images) - 2
    assert "It is not known of a map from elsewhere." in other.text


def test_calibration_is_drawn_and_told(tmp_path, report):
    text = written(tmp_path, report)
    metrics = report["metrics"]
    assert f"{percent(metrics['ece'])} %" in text
    assert f"{percent(metrics['confidence']['finds_errors'])} % of pairs" in text
    assert f"{percent(metrics['disagreement']['wrong'], 2)} %" in text
    filled = [one for one in metrics["confidence"]["reliability"] if one["pixels"]]
    assert text.count('class="kept"') == len(filled)
    assert text.count('class="modest"') == sum(one["accuracy"] > one["confidence"] for one in filled)


def test_both_stages_have_their_curves(tmp_path, report):
    text = written(tmp_path, report)
    assert text.count('<svg class="chart"') == 5
    assert text.count('class="trend line-0"') == 5


def test_a_run_without_diffusion_says_so(tmp_path, report):
    page = Page(written(tmp_path, report | {"pretrain_log": [], "drawings": Drawings()}))
    assert page.sections == SECTIONS
    assert "No diffusion model was trained" in page.text
    assert "None were drawn" in page.text


def test_undefined_figures_are_dashes(tmp_path, report):
    metrics = report["metrics"] | {"kappa": None, "oa_without_overlap": None}
    metrics["per_class"] = metrics["per_class"] | {"roof": None}
    page = Page(written(tmp_path, report | {"metrics": metrics}))
    assert "nan" not in page.text
    assert page.text.count("–") >= 3


def test_a_choice_on_test_pixels_stands_in_its_own_labelled_column(tmp_path, report):
    chosen = {"step": 80, "oa": 0.987, "aa": 0.976, "kappa": None}
    text = written(tmp_path, report | {"metrics": report["metrics"] | {"literature_protocol": chosen}})
    page, without = Page(text), Page(written(tmp_path, report))
    assert "Selected on test, step 80" in page.text
    assert "nothing was chosen by it" in page.text
    assert re.findall(r'<td class="caution">(.*?)</td>', text) == ["98.7", "97.6", "–"]
    assert "Selected on test" not in without.text
    assert len(page.cells) > len(without.cells)


def test_what_each_of_many_seeds_reaches_by_itself_stands_beside_the_map_by_their_mean(tmp_path, report):
    spread = lambda mean: {"mean": mean, "deviation": 0.012, "values": [mean - 0.012, mean + 0.012]}
    members = {"seeds": [3, 4], "oa": spread(0.812), "aa": spread(0.7), "kappa": spread(0.655)}
    page = Page(written(tmp_path, report | {"metrics": report["metrics"] | {"members": members}}))
    assert "Each of 2 seeds by itself" in page.text
    assert {"81.2 ± 1.2", "70.0 ± 1.2", "65.5 ± 1.2"} <= set(page.cells)
    assert "seeds by itself" not in Page(written(tmp_path, report)).text


def test_intervals_and_what_limits_the_figures_are_told(tmp_path, report):
    low, high = report["metrics"]["oa_interval"]
    assert f"{percent(low)}–{percent(high)}" in Page(written(tmp_path, report)).text
    other = {"oa_interval": None, "classes_without_test_pixels": ["roof"]}
    test = {"only_first": 1234, "only_second": 5, "statistic": 9.0, "p": 0.00271}
    page = Page(written(tmp_path, report | {"metrics": report["metrics"] | other | {"against_own_map": test}}))
    assert "too few blocks with test pixels for an interval" in page.text
    assert "No test pixel shows roof" in page.text
    assert f"{count(1234)} test pixels are right on this map only, 5 on the other only" in page.text
    assert "p = 0.0027" in page.text


def test_estimated_areas_are_told_in_hectares_where_pixels_have_one_size(tmp_path, report):
    scene, prediction = report["scene"], report["prediction"]
    areas = assess(scene, prediction, patch=11, block=8, probability_sample=True)["area_adjusted"]
    cells = Page(written(tmp_path, report | {"metrics": report["metrics"] | {"area_adjusted": areas}})).cells
    one = areas["per_class"]["water"]["area"]
    total = 0.01 * (prediction >= 0).sum()  # pixels of 10 m
    assert f"{total * one['estimate']:.1f} ± {total * one['margin']:.1f}" in cells
    assert f"{percent(one['estimate'])} ± {percent(one['margin'])}" in cells


def test_findings_and_input_files_are_told(tmp_path, report):
    scene = dataclasses.replace(
        report["scene"],
        findings=(Finding("warning", "dsm", "3 pixels are nodata."),),
        sources=(Source("dsm.tif", 1_234_567, "f00d"),),
    )
    text = Page(written(tmp_path, report | {"scene": scene})).text
    assert "dsm: 3 pixels are nodata." in text
    assert "SHA-256 f00d" in text
    assert "Left half for training, right half for testing." in text
    assert f"{count(1_234_567)} bytes" in text


def test_a_colour_cannot_smuggle_style_into_the_page(tmp_path, report):
    scene = report["scene"]
    classes = (dataclasses.replace(scene.classes[0], colour="red; background: url(evil)"), *scene.classes[1:])
    with pytest.raises(ValueError, match="RGBA"):
        written(tmp_path, report | {"scene": dataclasses.replace(scene, classes=classes)})


def test_memory_stands_beside_the_time(tmp_path, report):
    assert "1.5 GB on the host, 512 MB on the device" in written(tmp_path, report)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.52, "0.5 s"), (12.4, "12 s"), (59.8, "60 s"), (75.0, "1 min 15 s"), (7300.0, "2 h 01 min")]
)
def test_durations_read_as_one_would_say_them(seconds, said):
    assert duration(seconds) == said
