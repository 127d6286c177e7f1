"""The transformers pipeline "concept-segmentation": pictures and phrases in, objects with masks out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import Pipeline

from .bundled import NOTICE, bundled_model
from .modeling import AutoConceptModel, Sam3Detector, Sam3Model
from .ops.masks import rle_encode
from .processing import Sam3Processor
from .video import FrameSource, VideoRules, VideoSession, propagate

__all__ = ["TASK", "ConceptSegmentationPipeline", "register"]

TASK = "concept-segmentation"
MASK_FORMATS = ("pil", "bool", "rle")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")

DEFAULTS: dict[str, Any] = {
    "threshold": 0.5,
    "mask_threshold": 0.5,
    "top_k": None,
    "nms_threshold": None,
    "mask_format": "pil",
    "phrase_batch_size": 4,
}

_PREPROCESS = ("text", "boxes", "box_labels", "points", "point_labels")
_FORWARD = tuple(DEFAULTS)
_POSTPROCESS = ("top_k", "mask_format")
_PADDING = -10  # transformers' label of a box or point that only fills up a row
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


class ConceptSegmentationPipeline(Pipeline):
    """Finds all objects of a phrase in pictures: `transformers.pipeline("concept-segmentation", model=...)`.

    ```python
    import sam3_hf, transformers

    pipe = transformers.pipeline("concept-segmentation", model="facebook/sam3")
    for found in pipe("street.jpg", text=["car", "traffic sign"], threshold=0.5):
        print(found["label"], found["score"], found["box"])
    ```

    Args:
        model: `Sam3Model` or `Sam3Detector`, or the name of a repository or directory. `transformers.pipeline` without
            one takes the bundled model and says so.
        processor: `Sam3Processor` or its directory; by default the model's, at the model's image size.
        device, dtype, batch_size, num_workers: as for every pipeline. `batch_size` pictures go through the vision tower
            at once.
        Everything that a call accepts may be given here as its default.
    """

    # transformers opens none of these itself: `Sam3Processor` is not one of its own classes
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False

    model: Any
    processor: Any

    def __init__(
        self,
        model: Sam3Model | Sam3Detector | str | os.PathLike[str],
        processor: Sam3Processor | str | os.PathLike[str] | None = None,
        local_files_only: bool = False,  # `transformers.pipeline` passes it on to the class
        **kwargs: Any,
    ) -> None:
        model = _own_model(model)
        if not isinstance(processor, Sam3Processor):
            processor = _load_processor(model, processor, local_files_only)
        kwargs.setdefault("task", TASK)
        components: dict[str, Any] = {"model": model.eval(), "processor": processor}
        super().__init__(**components, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Writes model and processor to `save_directory`, from which the pipeline opens again."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def __call__(self, inputs: Any, *args: Any, text: str | Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Returns the objects of a picture, best first; a list of such lists for a list of pictures; else an iterator.

        Args:
            inputs: a picture (PIL, array, tensor, path or URL), or a dictionary of `image` and, where they differ from
                picture to picture, `text`, `boxes`, `box_labels`, `points`, `point_labels`; or a list of these; or a
                generator or dataset of them, which is read as results are asked for, `batch_size` pictures at a time;
                or a video file, or what `open_video` returned: see `track`.
            text: a phrase, or several, each asked of every picture. May be left out where boxes or points are given.
            boxes: example boxes [[x0, y0, x1, y1], ...] in pixels, for each phrase.
            box_labels: 1 (positive, the default) or 0 (negative) for each box.
            points, point_labels: example points [[x, y], ...], in the same way.
            threshold: least score, 0..1 (default 0.5).
            mask_threshold: least probability of a pixel of a mask, 0..1 (default 0.5).
            top_k: at most that many objects per picture.
            nms_threshold: drop objects of a phrase whose mask overlaps a better one's by more than this IoU.
            mask_format: "pil" (mode L, 0 or 255; the default), "bool" (array) or "rle" (COCO's compressed code).
            phrase_batch_size: rows (phrase and picture) that run at once (default 4); does not change results.

        Each object is `{"score": float, "label": phrase, "mask": ..., "box": {"xmin", "ymin", "xmax", "ymax"}}`; masks
        are of the picture's size, boxes in whole pixels. The label of boxes or points without a phrase is "visual".

        Raises:
            ValueError: no phrase, box or point; and whatever `Sam3Processor` refuses.
            TypeError: an argument that does not exist.
        """
        if isinstance(inputs, FrameSource) or _is_video(inputs):
            return self.track(inputs, text=text, **kwargs)
        if args:
            raise TypeError(f"{TASK} takes the pictures alone by position; give the phrases as text={args[0]!r}.")
        if text is not None:
            kwargs["text"] = text
        if isinstance(inputs, list | tuple):
            return list(super().__call__(_Pictures(inputs), **kwargs))
        is_single = isinstance(inputs, str | os.PathLike | Mapping | Image.Image | np.ndarray | Tensor)
        if is_single or not isinstance(inputs, Iterable | Dataset):
            return next(iter(super().__call__(_Pictures([inputs]), **kwargs)))
        return super().__call__(_Pictures(inputs), **kwargs)

    def track(
        self,
        video: Any,
        text: str | Sequence[str] | None = None,
        threshold: float = 0.5,
        mask_format: str = "pil",
        rules: VideoRules | None = None,
        max_frames: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yields `{"frame": number, "objects": [...]}` for each frame of a video, as the frames are read.

        Args:
            video: a file, folder, list, array, generator, camera index, or what `open_video` returned.
            text: a phrase, or several.
            threshold: least score of a detection, 0..1.
            mask_format: "pil", "bool" or "rle", as for pictures.
            rules: other rules than the released ones; `threshold` is then theirs.
            max_frames: at most that many frames.

        Each object is `{"id", "score", "label", "mask", "box"}`; an object keeps its id.
        """
        _check_options({"threshold": threshold, "mask_format": mask_format})
        if text is None:
            raise ValueError(f"{TASK} on a video needs text; points and boxes are for sessions (docs/video.md).")
        if not isinstance(self.model, Sam3Model):
            raise TypeError(f"a video needs a whole Sam3Model with its tracker, got {type(self.model).__name__}.")
        rules = VideoRules(detection_threshold=threshold) if rules is None else rules
        session = self.processor.init_video_session(video, self.device, rules=rules)
        self.processor.add_text_prompt(session, text)
        return self._tracked(session, mask_format, max_frames)

    def _tracked(self, session: VideoSession, mask_format: str, max_frames: int | None) -> Iterator[dict[str, Any]]:
        most = None if max_frames is None else max_frames - 1
        for output in propagate(self.model, session, start_frame_idx=0, max_frame_num_to_track=most):
            found = self.processor.postprocess_outputs(session, output)
            masks = rle_encode(found["masks"]) if mask_format == "rle" else list(found["masks"].cpu())
            rows = zip(
                found["object_ids"].tolist(), found["scores"].tolist(), found["labels"], masks, found["boxes"].tolist(),
                strict=True,
            )  # fmt: skip
            objects = [
                {
                    "id": number,
                    "score": score,
                    "label": label,
                    "mask": _as_format(mask, mask_format),
                    "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), map(round, box), strict=True)),
                }
                for number, score, label, mask, box in rows
            ]
            yield {"frame": output.frame_idx, "objects": objects}

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = {*_PREPROCESS, *_FORWARD, *_POSTPROCESS}
        if unknown := sorted(kwargs.keys() - known):
            raise TypeError(
                f"{TASK} has no argument {', '.join(map(repr, unknown))}; it takes {', '.join(sorted(known))}."
            )
        _check_options(kwargs)
        pick = [{key: kwargs[key] for key in keys if key in kwargs} for keys in (_PREPROCESS, _FORWARD, _POSTPROCESS)]
        return pick[0], pick[1], pick[2]

    def get_iterator(
        self,
        inputs: Iterable[Any],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[list[dict[str, Any]]]:
        """The results of `inputs`, one picture after the other. Replaces transformers' way, which pads by tokenizer."""
        prepared = _Pictures(self.preprocess(item, **preprocess_params) for item in inputs)
        # More than one worker would each read the whole stream.
        loader = DataLoader(prepared, batch_size=batch_size, num_workers=min(num_workers, 1), collate_fn=_collate)
        for group in loader:
            for found in self.forward(group, **forward_params):
                yield self.postprocess(found, **postprocess_params)

    def preprocess(self, input_: Any, **prompt: Any) -> dict[str, Any]:
        """The model's inputs for one picture: `pixel_values`, the tensors of its `rows`, their `phrases`, `sizes`."""
        prompt = dict.fromkeys(_PREPROCESS) | prompt
        if isinstance(input_, Mapping):
            if "image" not in input_ or input_.keys() - {"image", *prompt}:
                raise ValueError(
                    f"A dictionary must hold 'image' and may hold {', '.join(prompt)}; "
                    f"got {', '.join(map(str, input_))}."
                )
            prompt |= {key: value for key, value in input_.items() if key != "image"}
            input_ = input_["image"]
        phrases = (
            [prompt["text"]] if prompt["text"] is None or isinstance(prompt["text"], str) else list(prompt["text"])
        )
        inputs = self.processor(
            images=input_,
            text=phrases,
            input_boxes=_for_each(phrases, prompt["boxes"]),
            input_boxes_labels=_for_each(phrases, prompt["box_labels"]),
            input_points=_for_each(phrases, prompt["points"]),
            input_points_labels=_for_each(phrases, prompt["point_labels"]),
            prompt_kind="exemplars",
            return_tensors="pt",
        )
        rows = dict(inputs)
        pixel_values, sizes = rows.pop("pixel_values"), rows.pop("original_sizes")
        rows.pop("image_ids", None)
        return {
            "pixel_values": pixel_values,
            "rows": rows,
            "sizes": sizes.tolist(),
            "phrases": ["visual" if phrase is None else phrase for phrase in phrases],
        }

    def _forward(self, input_tensors: Any, **options: Any) -> Any:
        """For each picture (list), for each of its phrases (list), the objects as the processor returns them (dict).

        Objects are selected here, not in `postprocess`, because the raw outputs of one row take 66 MB: of many phrases
        only `phrase_batch_size` at a time are ever held.
        """
        options = DEFAULTS | options
        image_ids: Tensor = input_tensors["rows"]["image_ids"]
        num_images = len(input_tensors["pixel_values"])
        vision = self.model.get_vision_features(input_tensors["pixel_values"].to(self.model.dtype))
        found: list[list[dict[str, Any]]] = [[] for _ in range(num_images)]
        step = options["phrase_batch_size"]
        for start in range(0, len(image_ids), step):
            piece = slice(start, start + step)
            outputs = self.model(
                vision_embeds=vision, **{name: rows[piece] for name, rows in input_tensors["rows"].items()}
            )
            results = self.processor.post_process_instance_segmentation(
                outputs,
                threshold=options["threshold"],
                mask_threshold=options["mask_threshold"],
                target_sizes=input_tensors["sizes"][piece],
                nms_threshold=options["nms_threshold"],
                top_k=options["top_k"],
                mask_format="rle" if options["mask_format"] == "rle" else "bool",
                phrases=input_tensors["phrases"][piece],
            )
            for image_id, result in zip(image_ids[piece].tolist(), results, strict=True):
                found[image_id].append(self._ensure_tensor_on_device(result, torch.device("cpu")))
        return found

    def postprocess(self, model_outputs: Any, **options: Any) -> list[dict[str, Any]]:
        """The objects of one picture from those of its phrases, best first."""
        options = DEFAULTS | options
        objects = [
            {"score": score, "label": label, "mask": mask, "box": box}
            for row in model_outputs
            for score, label, mask, box in zip(
                row["scores"].tolist(), row["labels"], row["masks"], row["boxes"].tolist(), strict=True
            )
        ]
        objects = sorted(objects, key=lambda found: -found["score"])[: options["top_k"]]
        for found in objects:
            found["mask"] = _as_format(found["mask"], options["mask_format"])
            corners = (round(value) for value in found["box"])
            found["box"] = dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
        return objects


def _is_video(inputs: Any) -> bool:
    return isinstance(inputs, str | os.PathLike) and Path(inputs).suffix.lower() in VIDEO_SUFFIXES


class _Pictures(IterableDataset):
    """Pictures as a dataset, which transformers streams; a plain generator it may read to its end first (5.10 does)."""

    def __init__(self, pictures: Any) -> None:
        self.pictures = pictures

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.pictures, Iterable):
            return iter(self.pictures)
        return (self.pictures[index] for index in range(len(self.pictures)))  # a map-style dataset


def _check_options(options: Mapping[str, Any]) -> None:
    for name in ("threshold", "mask_threshold", "nms_threshold"):
        value = options.get(name)
        if value is not None and not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must lie between 0 and 1, got {value}.")
    for name in ("top_k", "phrase_batch_size"):
        value = options.get(name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if options.get("mask_format", "pil") not in MASK_FORMATS:
        raise ValueError(f"mask_format must be one of {', '.join(MASK_FORMATS)}, got {options['mask_format']!r}.")


def _for_each(phrases: Sequence[Any], exemplars: Any) -> list[Any] | None:
    """The same boxes or points (or labels) for every phrase, or None where there are none."""
    return None if exemplars is None or len(exemplars) == 0 else [exemplars] * len(phrases)


def _collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One group of prepared pictures; `rows` then holds `image_ids`, which says whose each row is."""
    counts = [len(item["phrases"]) for item in items]
    names = {name for item in items for name in item["rows"]}
    rows = {name: _stack([item["rows"].get(name) for item in items], counts) for name in names}
    rows["image_ids"] = torch.repeat_interleave(torch.arange(len(items)), torch.tensor(counts))
    return {
        "pixel_values": torch.cat([item["pixel_values"] for item in items]),
        "rows": rows,
        "sizes": [size for item in items for size in item["sizes"]],
        "phrases": [phrase for item in items for phrase in item["phrases"]],
    }


def _stack(parts: Sequence[Tensor | None], counts: Sequence[int]) -> Tensor:
    """The rows of all pictures, boxes and points padded to the largest number of them."""
    given = [part for part in parts if part is not None]
    length = max(part.shape[1] for part in given)
    stacked = given[0].new_full((sum(counts), length, *given[0].shape[2:]), _PADDING)
    start = 0
    for part, count in zip(parts, counts, strict=True):
        if part is not None:
            stacked[start : start + count, : part.shape[1]] = part
        start += count
    return stacked


def _as_format(mask: Any, mask_format: str) -> Any:
    if mask_format == "rle":
        return mask
    array = mask.numpy()
    return array if mask_format == "bool" else Image.fromarray(array.astype(np.uint8) * 255)


# ---- opening and registering ----


def _own_model(model: Any) -> Sam3Model | Sam3Detector:
    if isinstance(model, str | os.PathLike):
        return AutoConceptModel.from_pretrained(model)
    if isinstance(model, Sam3Model | Sam3Detector):
        return model
    # transformers.pipeline falls back to its own class of the same checkpoint when ours raises, and hides why. Loading
    # again shows the user what is wrong, where answering with another model would not.
    name = getattr(model, "name_or_path", "")
    if name:
        AutoConceptModel.from_pretrained(name)
    kind = f"{type(model).__module__}.{type(model).__name__}"
    raise TypeError(
        f"{TASK} needs a sam3_hf.Sam3Model or Sam3Detector, got {kind}; pass model={name or 'DIRECTORY'!r} or the "
        "object that sam3_hf.Sam3Model.from_pretrained returns."
    )


def _load_processor(model: Any, source: str | os.PathLike[str] | None, local_files_only: bool) -> Sam3Processor:
    """The processor at `source` (by default the model's), resizing to the size that the model wants."""
    size = {"height": model.config.image_size, "width": model.config.image_size}
    source = source or model.name_or_path
    is_bare_directory = Path(source).is_dir() and not any((Path(source) / name).exists() for name in _PROCESSOR_FILES)
    if not source or is_bare_directory:
        return Sam3Processor(size=size)
    return Sam3Processor.from_pretrained(source, size=size, local_files_only=local_files_only)


class _DefaultModel:
    """Stands where transformers looks up a task's default model and its revision; says what is used, when it is."""

    def __iter__(self) -> Iterator[str]:
        warnings.warn(NOTICE, stacklevel=2)
        return iter((bundled_model(), "main"))


def register() -> None:
    """Makes `transformers.pipeline("concept-segmentation")` known; does nothing where it already is."""
    from transformers.pipelines import PIPELINE_REGISTRY  # looked up each time: a reload of that module makes a new one

    known = PIPELINE_REGISTRY.supported_tasks.get(TASK)
    if known is not None and known["impl"] is ConceptSegmentationPipeline:
        return
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=ConceptSegmentationPipeline,
        pt_model=(AutoConceptModel,),
        default={"model": _DefaultModel()},
        type="multimodal",
    )


register()
