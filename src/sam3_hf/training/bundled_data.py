"""What the bundled model is trained on, in batches without end."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ..data import SceneDataset
from ..modeling import Sam3Detector
from .augment import Augmentation
from .collator import ConceptCollator, ConceptDataset, ConceptSample
from .datasets import load_coco
from .naming import NamedScenes
from .sampling import ConceptSampler
from .tracking import ClipDataset

__all__ = [
    "MIXTURE",
    "NUM_SCENES",
    "PHOTO_MIXTURE",
    "PICTURES_AN_EPOCH",
    "ClipMixture",
    "Mixture",
    "batches",
    "named_batches",
    "training_clips",
    "training_data",
]

# Share of each source in what the model sees. Scenes teach language; each photo set is small.
MIXTURE = {"scenes": 0.55, "facade": 0.12, "nuclei": 0.08, "clothing": 0.13, "coco": 0.12}
# The same once scenes are mostly learned: photos, crowded ones above all, are what is left.
PHOTO_MIXTURE = {"scenes": 0.42, "facade": 0.3, "nuclei": 0.18, "clothing": 0.06, "coco": 0.04}
NUM_SCENES = 1_000_000
PICTURES_AN_EPOCH = 8000
CLIPS_A_PHOTO = 3  # every third clip is a photo set in motion, where there are photos


class Mixture(Dataset[ConceptSample]):
    """Samples of several datasets, each drawn with its share; the same for the same seed and epoch."""

    def __init__(
        self, sources: dict[str, ConceptDataset], shares: dict[str, float], length: int, seed: int = 0
    ) -> None:
        self.sources = [(name, source) for name, source in sources.items() if shares.get(name)]
        if not self.sources:
            raise ValueError(f"no source of {list(sources)} has a share above 0 in {shares}")
        share = np.array([shares[name] for name, _ in self.sources])
        self.share, self.length, self.seed, self.epoch = share / share.sum(), length, seed, 0

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Draws other samples."""
        self.epoch = epoch
        for _, source in self.sources:
            source.set_epoch(epoch)

    def __getitem__(self, index: int) -> ConceptSample:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        _, source = self.sources[rng.choice(len(self.sources), p=self.share)]
        return source[int(rng.integers(len(source)))]


def training_data(
    folder: Path | None, image_size: int, shares: dict[str, float], seed: int = 0, max_objects: int = 20
) -> Mixture:
    """What the bundled model is trained on: scenes, and the photo sets of `folder` that have a share."""

    def sampler(assumed_absent: Sequence[str] = ()) -> ConceptSampler:
        return ConceptSampler(positives=2, random_negatives=0, hard_negatives=1, assumed_absent=assumed_absent)

    scenes = SceneDataset(NUM_SCENES, "train", image_size=image_size, max_objects=max_objects)
    sources = {"scenes": ConceptDataset(scenes, sampler(), None, seed=seed)}
    names = [] if folder is None else [name for name, share in shares.items() if share and name != "scenes"]
    sets = {name: load_coco(folder / name / "train.json") for name in names if folder is not None}
    phrases = {name: list(data[0]["vocabulary"]) for name, data in sets.items()}
    for name, data in sets.items():
        # Pictures of a set with a single phrase have no absent ones of their own; what other sets are about is absent.
        others = [phrase for other in sets if other != name for phrase in phrases[other]]
        chosen = sampler(others if len(phrases[name]) == 1 else ())
        sources[name] = ConceptDataset(data, chosen, Augmentation(), seed=seed)
    return Mixture(sources, shares, PICTURES_AN_EPOCH, seed)


def batches(
    data: Mixture, collator: ConceptCollator, batch_size: int, epoch: int, workers: int
) -> Iterator[dict[str, Any]]:
    """Batches without end."""
    prefetch = 4 if workers else None
    while True:
        data.set_epoch(epoch)
        yield from DataLoader(
            data, batch_size, collate_fn=collator, num_workers=workers, drop_last=True, prefetch_factor=prefetch
        )
        epoch += 1


def named_batches(detector: Sam3Detector, options: argparse.Namespace, seed: int) -> Iterator[Any]:
    """Batches without end of pixels and the names of their cells."""
    tower = detector.config.vision_config.backbone_config
    scenes = SceneDataset(NUM_SCENES, "train", image_size=tower.image_size, max_objects=8)
    loader = DataLoader(
        NamedScenes(scenes, tower.grid_size, seed), options.batch_size, num_workers=options.workers, drop_last=True
    )
    while True:
        yield from loader


class ClipMixture(Dataset[dict[str, Any]]):
    """Concept clips and, in every `CLIPS_A_PHOTO`th place, photos set in motion."""

    def __init__(self, drawn: ClipDataset, photos: Sequence[ClipDataset] = ()) -> None:
        self.drawn, self.photos = drawn, photos

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, index: int) -> dict[str, Any]:
        round_, place = divmod(index, CLIPS_A_PHOTO)
        if self.photos and place == CLIPS_A_PHOTO - 1:
            return self.photos[round_ % len(self.photos)][index]
        return self.drawn[index]


def training_clips(data: Mixture, num_frames: int, image_size: int, seed: int = 0) -> ClipMixture:
    """What the bundled tracker is trained on: concept clips, and the photos of `data` set in motion, set by set."""
    photos = [source.examples for name, source in data.sources if name != "scenes"]
    sources = [ClipDataset(one, num_frames=num_frames, image_size=image_size, seed=seed) for one in (None, *photos)]
    return ClipMixture(sources[0], sources[1:])
