"""How the benchmark scenes of the field are distributed: files, the variables in them, and where they come from."""

from dataclasses import dataclass
from typing import Any

OUC = "the collection of the Ocean University of China, of whose scenes MSFMamba, DCMNet and HyMuT are evaluated"


@dataclass(frozen=True)
class Layout:
    """The files of a benchmark scene.

    Args:
      title: what the scene shows, in words.
      source: where the files come from, in words.
      images: by modality: kind, file and variable.
      labels: file and variable of the label image; None where training and test images hold the classes.
      train: file and variable of the training pixels, as (row, column) pairs counted from 0 or as an image; None where
        no split is distributed with the scene.
      test: of the test pixels, likewise.
    """

    title: str
    source: str
    images: dict[str, tuple[str, str, str]]
    labels: tuple[str, str] | None
    train: tuple[str, str] | None = None
    test: tuple[str, str] | None = None

    def fields(self) -> dict[str, Any]:
        """The fields of a configuration's `scene` section that say so."""
        file, key = self.labels or ("", "")
        split = {"kind": "masks" if self.train else "per_class"}
        for name, place in (("train", self.train), ("test", self.test)):
            split[f"{name}_file"], split[f"{name}_key"] = place or ("", "")
        # Values as published: the field takes no decibels of these scenes, whose SAR bands hold covariances too.
        modalities = {
            name: {"kind": kind, "file": file, "key": key, "scale": "none"}
            for name, (kind, file, key) in self.images.items()
        }
        return {"modalities": modalities, "labels": {"file": file, "key": key}, "split": split}


def _collected(title: str, prefix: str, second: str, kind: str) -> Layout:
    """A scene of the collection: every file and variable bears the scene's name."""
    index = f"{prefix}_index.mat"
    return Layout(
        title=title,
        source=OUC,
        images={
            "hsi": ("optical", f"{prefix}_hsi.mat", f"{prefix}_hsi"),
            second: (kind, f"{prefix}_{second}.mat", f"{prefix}_{second}"),
        },
        labels=(f"{prefix}_gt.mat", f"{prefix}_gt"),
        train=(index, f"{prefix}_train"),
        test=(index, f"{prefix}_test"),
    )


LAYOUTS = {
    "berlin": _collected("Berlin: 244 bands of simulated EnMAP and 4 of Sentinel-1", "berlin", "sar", "sar"),
    "augsburg": _collected("Augsburg: 180 bands of HySpex and 4 of Sentinel-1", "augsburg", "sar", "sar"),
    "augsburg_dsm": Layout(
        title="Augsburg as first published: 180 bands, 4 of Sentinel-1, and a surface model",
        source="the authors of S2FL (Hong et al. 2021), file names as they publish them",
        images={
            "hsi": ("optical", "data_HS_LR.mat", "data_HS_LR"),
            "sar": ("sar", "data_SAR_HR.mat", "data_SAR_HR"),
            "dsm": ("height", "data_DSM.mat", "data_DSM"),
        },
        labels=None,
        train=("TrainImage.mat", "TrainImage"),
        test=("TestImage.mat", "TestImage"),
    ),
    "yellow_river_estuary": Layout(
        title="Yellow River Estuary: 285 bands and 3 of SAR",
        source=OUC,
        images={"hsi": ("optical", "data_hsi.mat", "data"), "sar": ("sar", "data_sar.mat", "data")},
        labels=("data_gt.mat", "data"),
        train=("data_index.mat", "train_index"),
        test=("data_index.mat", "test_index"),
    ),
    "houston2013": _collected(
        "Houston 2013: 144 bands of CASI and a LiDAR surface model", "houston", "lidar", "height"
    ),
    "houston2018": _collected("Houston 2018: 50 bands of CASI and a LiDAR surface model", "houston", "lidar", "height"),
    "trento": _collected("Trento: 63 bands of AISA Eagle and a LiDAR surface model", "trento", "lidar", "height"),
    "muufl": Layout(
        title="MUUFL Gulfport: 64 bands of CASI and 2 LiDAR rasters",
        source="GatorSense (Gader et al. 2013), whose one .mat structure is to be saved as three arrays",
        images={
            "hsi": ("optical", "muufl_hsi.mat", "muufl_hsi"),
            "lidar": ("height", "muufl_lidar.mat", "muufl_lidar"),
        },
        labels=("muufl_gt.mat", "muufl_gt"),
    ),
}
