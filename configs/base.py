"""Every field of a run and what it means. The other configs state only where they differ.

Override any field on the command line, such as `--config.train.steps=200`.
"""

from typing import Any

import ml_collections


def get_config(size: str = "") -> Any:
    config: Any = ml_collections.ConfigDict()

    # What is classified: one grid, two or more modalities.
    config.scene = ml_collections.ConfigDict(
        {
            "name": "scene",
            # files | prepared (once, by TensorFlow Datasets) | patches (of a data set that it knows) | synthetic
            "source": "files",
            "folder": "",  # relative file names start here; ~ is expanded
            "synthetic": {"height": 96, "width": 96, "bands": 48, "classes": 6, "seed": 0},
            # patches with a class each, laid out side by side: the data set, its splits that training and test patches
            # are drawn from, and test patches a class; training patches a class are split.per_class, `file` a feature
            "patches": {"dataset": "", "train": "train", "test": "validation", "test_per_class": 100},
            # name -> {file, kind: optical | sar | height (how it is drawn), key (of .mat and .npz), bands (1-based;
            # empty = all), names, wavelengths (nm), nodata, scale}, in this order. scale: a factor, "db" (10 log10 of
            # linear power), "none", or "" = as the file declares, and decibels where a SAR image is in linear power
            "modalities": ml_collections.ConfigDict(sort_keys=False),
            "reference": "",  # the modality whose grid all others are resampled onto; empty = the first
            "resampling": "bilinear",  # nearest | bilinear | cubic | average
            "labels": {
                "file": "",  # an image, or the polygons of a shapefile, GeoPackage or GeoJSON
                "key": "",  # of .mat and .npz
                "attribute": "",  # of the polygons: the one that holds the class, as a number or in words
                "layer": "",  # of a file of several; empty = the only one
                "ignore": (0,),  # values that mean unlabelled
                "names": {},  # value -> class name
                "colours": {},  # value -> #rrggbb
                "minimum_test_pixels": 0,  # classes with fewer are dropped from the split, and said
            },
            "split": {
                "kind": "blocks",  # blocks | per_class (random pixels: leaks, and the report says so) | masks (files)
                "block": 16,  # side of a block, pixels
                "train_blocks": 0.35,  # share of the blocks that training pixels come from
                "per_class": 60,  # training pixels a class, at most
                "guard": 10,  # every test pixel lies further than this from every training pixel, pixels
                "validation_blocks": 0.0,  # share of the training blocks set aside whole, for choosing
                "seed": 0,
                "train_file": "",
                "test_file": "",
                "train_key": "",
                "test_key": "",
            },
            # whiten: principal components of unit variance, at most `components` a modality; standardise: by band
            # percentiles: of its own pixels, to which each band is clipped first; (1, 99) takes glints and spikes off
            "statistics": {"mode": "whiten", "components": 30, "percentiles": (0, 100)},
        }
    )

    # The multimodal DDPM.
    config.diffusion = ml_collections.ConfigDict(
        {
            "schedule": "cosine",  # cosine | linear
            "timesteps": 1000,
            "target": "noise",  # at visible pixels: noise | clean | velocity; at hidden ones always clean
            "hidden_weight": 0.1,  # of the loss at hidden pixels
            "width": 32,
            "multipliers": (1, 2, 2),  # of the width, one a level
            "blocks": 1,  # residual blocks a level, on the way down and on the way up
            "dtype": "float32",  # of convolutions, not of parameters, norms and losses: float32 | bfloat16
            "rematerialise": False,  # less memory for more time: blocks are computed again for their gradients
        }
    )

    # Which pixels of which modality the DDPM has to do without.
    config.masking = ml_collections.ConfigDict(
        {
            "rule": "adaptive",  # none | fixed | random | adaptive | loss_ratio | miam | alone
            "ratio": 0.1,  # probability that a modality is hidden; the highest one for loss_ratio
            "floor": 0.02,  # lowest probability, of adaptive and loss_ratio
            "alpha": 0.5,  # how steeply adaptive and loss_ratio answer to a lead
            "temperature": 0.2,  # of the softmax over skills of loss_ratio and alone
            "exponent": 1.0,  # of miam's weights
            "concentration": 10.0,  # of miam's Beta distributions
            "whole": 0.5,  # share of the samples whose modalities are hidden whole; the others lose cells
            "cell": 8,  # side of a cell, pixels
            "ramp": (0.5, 0.8),  # shares of the training between which masking grows from nothing to `ratio`
            "decay": 0.99,  # of the average of each modality's skill
        }
    )

    # Optimisation of the DDPM. Every figure in steps.
    config.pretrain = _optimisation(steps=1500, batch_size=16, learning_rate=2e-3)
    config.pretrain.crop = 32  # side of the crops, a multiple of 2 ** (levels - 1)
    # on the scene where empty; else on many: a folder of folders with the files of scene.modalities, or the name that
    # such a corpus was prepared under. Statistics are the corpus's then
    config.pretrain.corpus = ""
    config.pretrain.tile = 64  # side of the tiles that a corpus is cut into, and crops are cut from at random

    # What the classifier is guided by.
    config.features = ml_collections.ConfigDict(
        {
            # ddpm | untrained (the control) | none | another model's feature maps: files (h, w, c), one a level,
            # coarsest first, commas between them
            "source": "ddpm",
            # the DDPM of another run, of the same modalities and bands, instead of one that is pre-trained now: its
            # --workdir, a folder from `bdgf export`, or one of its checkpoints. `diffusion` and statistics are its own
            "checkpoint": "",
            "timesteps": (400,),  # some of diffusion.timesteps; each costs as much as the first
            "draws": 4,  # of noise, whose features are averaged
            "levels": (0, 1),  # of the decoder, coarsest first
            "tile": 128,  # the scene is passed through the DDPM in equal tiles of at most this side …
            "margin": 16,  # … with this many pixels round each, thrown away afterwards
            "seed": 0,  # of the noise that the scene is mixed with
            # one more level of guidance, by classical means: openings and closings by reconstruction with disks of
            # these radii, means and deviations in windows of these sides, of each modality's first components; 0 = none
            "context": {"components": 4, "radii": (2, 4, 8), "windows": (3, 7, 11)},
        }
    )

    # The three guided branches.
    config.classifier = ml_collections.ConfigDict(
        {
            "branches": ("cnn", "mamba", "transformer"),
            # side of a patch, odd; diffusion features see further by themselves
            "patch": 7,
            # side s of the patch's centre that is predicted at once, odd; 1 = a patch for each pixel, as published. A
            # pixel sees patch + centre - 1 pixels across: two that see 11, as here, share nothing at a guard of 10
            "centre": 5,
            "width": 32,
            "stages": 3,
            "dropout": 0.3,
            # how diffusion features guide each branch: any of fusion, group_channel_attention,
            # channel_cross_attention, cross_attention, concatenation, none
            "guidance": {"cnn": "fusion", "mamba": "group_channel_attention", "transformer": "cross_attention"},
            "merge_timesteps": "concat",  # the features of all timesteps: concat | softmax (learned weights) | mean
            "groups": 4,  # of group channel attention
            "reduction": 4,  # of its bottleneck
            "heads": 4,  # of the transformer
            "state": 8,  # of the selective scan, a channel
            "expansion": 1.0,  # of the Mamba branch
            "directions": "grouped",  # four | grouped: all channels in each direction, or a quarter of them in each
            "convolution": "causal",  # before the scans, depthwise: causal (along the raster) | square
            "head": "mean_and_token",  # of each pixel: mean of the tokens round it, and the token itself too
            # kernel logistic regression on the pixel's own guidance. share: of it in the prediction, the rest is the
            # branches'; landmarks: pixels that others are likened to, 0 = no such head; gamma: how fast likeness falls
            # off with distance; last_share: of the last level, the context where there is one, in the distance, the
            # rest is the others'; ridge: how strongly the head is held down, in the loss of a training pixel;
            # discriminant: how much the logits of a linear discriminant on the last level count beside the kernel's
            "direct": {
                "share": 0.8,
                "landmarks": 512,
                "gamma": 2.0,
                "last_share": 0.5,
                "ridge": 0.1,
                "discriminant": 0.1,
            },
            "dtype": "float32",  # of matrix products, not of parameters, norms, scans and losses: float32 | bfloat16
            "rematerialise": False,  # less memory for more time: stages are computed again for their gradients
            "fusion": "mean",  # of the branches: mean of their probabilities | head on all their features
            # factors of the losses that align the branches
            "mutual": {
                "entropy": 0.1,
                "alignment": "both",  # of probabilities: entropy | divergence | both
                "sure_teachers": True,  # a branch teaches in proportion to its certainty
                "similarity": 0.1,
                "kind": "cosine",  # of features: cosine | relational
                "ramp": 0.2,  # share of the training in which both rise from nothing
                # patches without labels, from anywhere in the scene, that the branches are aligned on beside each
                # labelled one; each takes as long as that
                "unlabelled": 0,
            },
        }
    )

    # Optimisation of the classifier.
    config.train = _optimisation(steps=200, batch_size=48, learning_rate=1e-3)
    # classifiers that are trained together as one program, of the seeds seed, seed + 1, …; the map is by the mean of
    # their probabilities, the best step is that of the mean, and how each of them does by itself is reported too
    config.train.num_seeds = 1
    # probability that one modality of a sample is hidden from the classifier, so that it can do without (`bdgf predict
    # --without`); above 0, features are computed and held once more for each modality
    config.train.modality_dropout = 0.0
    config.train.weight_decay = 0.1
    config.train.class_balance = "balanced"  # none | weighted (the loss) | balanced (the batches)
    config.train.label_smoothing = 0.05
    config.train.augment = True  # flips and quarter turns
    config.train.jitter = 0.5  # standard deviation of a random offset of every channel of a patch

    config.predict = ml_collections.ConfigDict(
        {
            "stride": 0,  # distance between the patches of a map; less than classifier.centre averages, 0 = equal to it
            "batch_size": 256,
            # side of the windows that the scene is read, mapped and written in, a multiple of features.tile, so that it
            # may be larger than memory; 0 = in one piece
            "tile": 0,
            # modalities that the scene is mapped without, since their sensors have nothing to give; `bdgf predict
            # --without` sets it. Their files are not read
            "without": (),
            "labelled_only": False,  # map nothing but labelled pixels, to score a model without a map of the scene
            "branches": (),  # those to compute, alone or together; empty = all that were trained
            # the map is the mean of the network's probabilities and those of a vote of classical classifiers on the
            # context, which is no part of BDGF; the report gives the accuracy of either
            "average_with_vote": False,
            # radii (pixels) of an edge-preserving filter of the map's probabilities, of which the best on the
            # validation pixels is taken; 0 = none, and one alone is taken as it is. The report gives the accuracy
            # without it too
            "smoothing": (),
            "probabilities": False,  # write probabilities.tif too
        }
    )

    config.evaluate = ml_collections.ConfigDict(
        {
            # report the step that scores best on the test pixels too, as much published code does: labelled so, never
            # used for anything else; needs train.evaluate_every
            "literature_protocol": False,
            # the test pixels were drawn at random from all of the scene, or from each class of the map: areas and
            # accuracies are estimated for the whole scene, with intervals
            "probability_sample": False,
        }
    )

    # Devices: -1 takes what is left.
    config.mesh = ml_collections.ConfigDict({"data": -1, "model": 1})
    config.placement = "replicated"  # of parameters and optimiser: replicated | sharded over all devices
    config.report = ml_collections.ConfigDict({"samples": 4, "sampling_steps": 50})
    if size == "tiny":
        config.diffusion.width = 8
        config.pretrain.steps = 20
        config.classifier.patch = 5
        config.classifier.centre = 3
        config.train.steps = 20
    return config


def _optimisation(*, steps: int, batch_size: int, learning_rate: float) -> Any:
    return ml_collections.ConfigDict(
        {
            "steps": steps,
            # taken in one call, without a word to the host; fewer where a checkpoint, say, is due between; 0 = 10, but
            # 1 in a single process on CPUs, where convolutions in a loop are slow
            "steps_together": 0,
            "batch_size": batch_size,
            "learning_rate": learning_rate,  # the highest; reached linearly, left along a cosine
            "warmup": 50,
            "weight_decay": 0.01,
            "clip": 1.0,  # of the gradient's global norm
            "ema": 0.999,  # decay of the parameters' average, which later stages use
            "seed": 0,
            "log_every": 20,
            "evaluate_every": 0,  # 0 = never; needs validation pixels
            "checkpoint_every": 200,
            "keep": 2,  # checkpoints kept, the best one besides
        }
    )
