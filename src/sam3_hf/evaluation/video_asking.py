"""A model on annotated videos: every video followed with all phrases it was asked for, then scored as VEval.

Video i belongs to process i modulo their number; what is done is kept in a journal, so a killed run goes on.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm

from ..modeling import Sam3Model
from ..processing import Sam3Processor
from ..video import VideoRules, follow_detections, open_video
from .annotations import read_json
from .askers import ModelSpec, Prompts, is_detector
from .coco_format import save_json
from .journal import PredictionJournal
from .model_runs import PREDICTIONS
from .veval import veval_results
from .video_format import VideoInfo, VideoTargets, load_video_targets, video_results
from .zero_shot import ZeroShotDetector

__all__ = ["VideoAsker", "is_video_file", "run_on_videos"]

_SUFFIXES = ("", ".mp4", ".webm", ".mov", ".mkv", ".avi")


def is_video_file(path: str | Path) -> bool:
    """Whether a JSON file annotates videos."""
    content = read_json(Path(path), "annotation file")
    return isinstance(content, Mapping) and "videos" in content


class VideoAsker:
    """SAM 3, or a zero-shot detector whose boxes the tracker of `spec.masks` follows.

    Args:
        spec: the model; only phrases can be asked.
        threshold: least score of a detector's boxes; SAM 3 has the rules of its configuration.
        device: as for a model.

    Raises ValueError for prompts other than phrases, and for a detector without a tracker.
    """

    def __init__(self, spec: ModelSpec, threshold: float, device: Any) -> None:
        if Prompts.parse(spec.prompts) != Prompts("text") or spec.nms is not None:
            raise ValueError(
                f"videos are asked for phrases, not {spec.prompts!r}, and have rules in place of --nms; leave both."
            )
        self.detector: ZeroShotDetector | None = None
        if is_detector(spec):
            if spec.masks is None:
                raise ValueError(f"{spec.model} finds boxes alone; give --masks MODEL, whose tracker follows them.")
            self.detector = ZeroShotDetector(spec.model, device, spec.dtype, spec.phrases_at_once)
        name = spec.masks or spec.model
        self.model = Sam3Model.from_pretrained(name, dtype=spec.dtype).eval().to(device)
        self.processor = Sam3Processor(size=self.model.config.image_size)
        self.rules: VideoRules | None = None
        if self.detector is not None:
            self.rules = VideoRules.from_config(
                self.model.config, detection_threshold=threshold, new_object_threshold=threshold
            )

    @torch.inference_mode()
    def results(self, source: Any, video_id: int, info: VideoInfo, phrases: Mapping[str, int]) -> list[dict[str, Any]]:
        """Results of one video, with masks: `source` as `open_video` takes it, `phrases` with their category ids.

        Raises ValueError where the frames are not as many, or not of the size, as the annotations say.
        """
        with open_video(source) as frames:
            if frames.size not in (None, info.size) or frames.num_frames not in (None, info.num_frames):
                raise ValueError(
                    f"video {video_id} ({info.name}) has {frames.num_frames} frames of {frames.size} (height, width); "
                    f"its annotations are of {info.num_frames} frames of {info.size}."
                )
            session = self.processor.init_video_session(frames, self.model.device, rules=self.rules)
            self.processor.add_text_prompt(session, list(phrases))
            if self.detector is None:
                outputs = self.model.propagate_in_video_iterator(session)
            else:
                outputs = follow_detections(self.model, session, lambda image: self._boxes(image, list(phrases)))
            found = ((one.frame_idx, self.processor.postprocess_outputs(session, one)) for one in outputs)
            return video_results(found, video_id, phrases, info.num_frames)

    def _boxes(self, image: Any, phrases: Sequence[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        assert self.detector is not None
        return list(self.detector.boxes(torch.as_tensor(image).permute(2, 0, 1), phrases))


def run_on_videos(
    spec: ModelSpec,
    annotations: Path,
    videos: Path,
    output: Path,
    threshold: float,
    state: PartialState,
    device: Any,
) -> dict[str, Any] | None:
    """What `veval_results` says of a model; None in all processes but the first. Writes `predictions.json`.

    `videos` holds the frames by the annotations' `file_names`, or where there are none a video file, or a folder of
    frames, by each video's name. Called again after a kill it goes on.
    """
    targets = load_video_targets(annotations)
    listed = {one["id"]: one.get("file_names") for one in read_json(annotations, "annotation file")["videos"]}
    sources = {number: _source(videos, info, listed[number]) for number, info in targets.videos.items()}
    asked = _asked(targets)
    header = {"spec": vars(spec), "videos": len(asked), "threshold": threshold, "annotations": annotations.name}
    with PredictionJournal(output, header, state.process_index) as journal:
        state.wait_for_everyone()
        done = journal.read()
        mine = list(asked)[state.process_index :: state.num_processes]
        todo = [number for number in mine if number not in done]
        asker = VideoAsker(spec, threshold, device) if todo else None
        hidden = not (state.is_main_process and sys.stderr.isatty())
        for number in tqdm(todo, initial=len(mine) - len(todo), total=len(mine), desc="videos", disable=hidden):
            assert asker is not None
            results = asker.results(sources[number], number, targets.videos[number], asked[number])
            journal.append(number, results=results)
        state.wait_for_everyone()
        if not state.is_main_process:
            return None
        known = journal.read()
    results = [entry for number in asked for entry in known[number]["results"]]
    save_json(results, output / PREDICTIONS)
    found = veval_results(results, annotations, threshold=threshold, progress=sys.stderr.isatty())
    PredictionJournal.remove(output)
    return found


def _asked(targets: VideoTargets) -> dict[int, dict[str, int]]:
    """By video the phrases that it is asked for, with their ids: those listed and those annotated."""
    pairs = {*(targets.asked or ()), *((track.video_id, track.category_id) for track in targets.tracks)}
    asked: dict[int, dict[str, int]] = {}
    for video, category in sorted(pairs):
        asked.setdefault(video, {})[targets.categories[category]] = category
    return asked


def _source(folder: Path, info: VideoInfo, files: Sequence[str] | None) -> Any:
    """What `open_video` takes; FileNotFoundError where it is missing."""
    if files:
        missing = [name for name in files if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{len(missing)} frames are missing, such as {folder / missing[0]}.")
        return [str(folder / name) for name in files]
    there = [path for path in (folder / f"{info.name}{suffix}" for suffix in _SUFFIXES) if path.exists()]
    if not info.name or not there:
        raise FileNotFoundError(f"{folder} has no video or folder of frames called {info.name!r}.")
    return str(there[0])
