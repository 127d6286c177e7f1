"""A model follows what it is told to find: phrases on drawn clips, and first masks on annotated videos.

Clips of the concept-scene generator are asked for phrases, present and absent ones, and judged by video concept F1,
HOTA and the survival of identities; annotated videos by J and F.  `video_scores` is the command.
"""

import json
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..data import ConceptClip
from ..ops.masks import rle_decode, rle_encode
from .coco_format import save_json
from .hota import hota
from .j_and_f import DAVIS_NAMES, j_and_f
from .survival import identity_survival
from .video_f1 import video_f1
from .video_format import (
    VideoInfo,
    VideoTargets,
    load_video_predictions,
    load_video_targets,
    video_pairs,
    video_results,
)
from .video_tracks import Track

__all__ = ["clip_phrases", "evaluate_masklets", "evaluate_video_model"]

FIGURES = ("cgF1", "positive_micro_F1", "IL_MCC")


def clip_phrases(clip: ConceptClip, max_present: int, max_absent: int, seed: int = 0) -> list[str]:
    """Phrases to ask of a clip, the same in every run: at most so many present ones, then absent ones."""
    chance = random.Random(f"{seed} {clip.clip_id}")
    present = sorted(phrase for phrase, objects in clip.concepts.items() if objects)
    absent = sorted(phrase for phrase, objects in clip.concepts.items() if not objects)
    return [
        phrase
        for some, most in ((present, max_present), (absent, max_absent))
        for phrase in chance.sample(some, min(most, len(some)))
    ]


def evaluate_video_model(
    model: Any,
    processor: Any,
    clips: Iterable[ConceptClip],
    *,
    rules: Any = None,
    max_present: int = 4,
    max_absent: int = 2,
    threshold: float = 0.5,
    max_hidden: Sequence[int] = (5, 10, 15),
    seed: int = 0,
    output_dir: str | Path | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Video `cgF1`, `positive_micro_F1`, `IL_MCC`, HOTA and its parts, and `identity_survival`, of masks, over `clips`.

    Args:
        model, processor: any `Sam3Model` and its processor.
        clips: concept clips with different `clip_id`s; one is in memory at a time.
        rules: a `VideoRules`; None: those of the model's configuration.
        max_present, max_absent: phrases asked of a clip, all in one session.
        threshold: least score of a track.
        max_hidden: numbers of hidden frames, see `identity_survival`.
        seed: of the choice of phrases.
        output_dir: folder for the results of each clip, `<clip_id>.json`; clips that have one are not run again.
        progress: whether to show a bar.

    Raises ValueError where a file of `output_dir` is of a run with other settings.
    """
    # Through JSON and back, to be equal to what a file says.
    settings = json.loads(
        json.dumps(
            {
                "model": getattr(model, "name_or_path", ""),
                "rules": None if rules is None else asdict(rules),
                "phrases": [max_present, max_absent, seed],
            }
        )
    )
    videos: dict[int, VideoInfo] = {}
    categories: dict[str, int] = {}
    targets: list[Track] = []
    asked: list[tuple[int, int]] = []
    results: list[dict[str, Any]] = []
    for clip in tqdm(clips, desc="clips", disable=not (progress and sys.stderr.isatty())):
        phrases = clip_phrases(clip, max_present, max_absent, seed)
        number = len(videos) + 1
        for phrase in phrases:
            categories.setdefault(phrase, len(categories) + 1)
        videos[number] = VideoInfo(clip.clip_id, clip.masks.shape[-2:], clip.num_frames)
        asked += [(number, categories[phrase]) for phrase in phrases]
        targets += _clip_targets(clip, number, {phrase: categories[phrase] for phrase in phrases})
        found = _clip_results(model, processor, clip, phrases, rules, settings, output_dir)
        results += [_placed(one, number, categories) for one in found]
    if not videos:
        raise ValueError("no clip to evaluate; give at least one.")
    known = VideoTargets(videos, {index: phrase for phrase, index in categories.items()}, targets, asked)
    pairs = list(video_pairs(load_video_predictions(results, known, threshold), known))
    concept = video_f1(pairs, threshold)
    return {
        **{name: concept[name] for name in FIGURES},
        **hota(pairs, threshold),
        **identity_survival(pairs, max_hidden, threshold),
        "num_clips": float(len(videos)),
        "num_pairs": float(len(pairs)),
    }


def evaluate_masklets(
    model: Any,
    processor: Any,
    folder: str | Path,
    *,
    max_videos: int | None = None,
    max_frames: int | None = None,
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """`DAVIS_NAMES` of each video and of all objects ("all"): each object is followed from its mask on the first frame.

    `folder` has `videos.json` (YouTube-VIS layout, masks) and `frames/`, where `file_names` are. Objects that are not
    there on the first frame are left out. Masks of several objects may overlap; DAVIS' own files cannot say that.
    """
    truth = load_video_targets(Path(folder) / "videos.json")
    files = {one["id"]: one["file_names"] for one in json.loads((Path(folder) / "videos.json").read_text())["videos"]}
    chosen = list(truth.videos.items())[:max_videos]
    figures: dict[str, dict[str, float]] = {}
    everything: list[Any] = []
    for number, info in tqdm(chosen, desc="videos", disable=not (progress and sys.stderr.isatty())):
        objects = [track for track in truth.tracks if track.video_id == number and track.areas[0]]
        if objects:
            paths = [str(Path(folder) / "frames" / name) for name in files[number][:max_frames]]
            there = [list(track.masks or ())[: len(paths)] for track in objects]
            found = _follow_masks(model, processor, paths, there)
            figures[info.name] = j_and_f(found, there)
            everything += [j_and_f(*pair) for pair in zip(found, there, strict=True)]
    if not figures:
        raise ValueError(f"{folder} has no object with a mask on the first frame of its video.")
    figures["all"] = {name: float(np.mean([one[name] for one in everything])) for name in DAVIS_NAMES}
    return figures


def _clip_targets(clip: ConceptClip, video: int, categories: Mapping[str, int]) -> list[Track]:
    masks = [
        [code if seen else None for code, seen in zip(rle_encode(torch.from_numpy(one)), one.any((1, 2)), strict=True)]
        for one in clip.masks.transpose(1, 0, 2, 3)
    ]
    return [
        Track(video, number, masks[index]) for phrase, number in categories.items() for index in clip.concepts[phrase]
    ]


def _clip_results(
    model: Any,
    processor: Any,
    clip: ConceptClip,
    phrases: Sequence[str],
    rules: Any,
    settings: Mapping[str, Any],
    output_dir: str | Path | None,
) -> list[dict[str, Any]]:
    """What is found in one clip, or was in an earlier run; `category_id` is the place of the phrase among `phrases`."""
    path = None if output_dir is None else Path(output_dir) / f"{clip.clip_id}.json"
    if path is not None and path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["settings"] != settings:
            raise ValueError(f"{path} is of a run with other settings: {stored['settings']}; give another folder.")
        results = stored["results"]
    else:
        session = processor.init_video_session(clip.frames, model.device, rules=rules)
        processor.add_text_prompt(session, list(phrases))
        with torch.inference_mode():
            found = (
                (output.frame_idx, processor.postprocess_outputs(session, output))
                for output in model.propagate_in_video_iterator(session)
            )
            numbers = {phrase: index for index, phrase in enumerate(phrases)}
            results = video_results(found, 0, numbers, clip.num_frames)
        if path is not None:
            save_json({"settings": settings, "results": results}, path)
    return [{**one, "phrase": phrases[one["category_id"]]} for one in results]


def _placed(result: Mapping[str, Any], video: int, categories: Mapping[str, int]) -> dict[str, Any]:
    return {**result, "video_id": video, "category_id": categories[result["phrase"]]}


def _follow_masks(model: Any, processor: Any, paths: Sequence[str], there: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Masks of each object on each frame (None where it is lost), given those of the first."""
    session = processor.init_video_session(list(paths), model.device)
    first = torch.stack([rle_decode(masks[0]) for masks in there])
    numbers = list(range(1, len(there) + 1))
    processor.add_inputs_to_inference_session(session, 0, numbers, input_masks=first)
    found: list[list[Any]] = [[None] * len(paths) for _ in there]
    with torch.inference_mode():
        for output in model.propagate_in_video_iterator(session):
            objects = processor.postprocess_outputs(session, output)
            for number, mask in zip(objects["object_ids"].tolist(), rle_encode(objects["masks"]), strict=True):
                found[numbers.index(number)][output.frame_idx] = mask
    return found
