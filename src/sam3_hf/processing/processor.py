"""`Sam3Processor`: pictures, phrases, exemplars and clicks in, the model's tensors out, and the way back.

One class serves concept prompts (every object of a phrase) and clicks (one object each).  It needs no torchvision.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, CLIPTokenizer, PreTrainedTokenizerBase
from transformers.utils import PushToHubMixin

from ..hub import local_directory
from . import postprocess
from .clicks import click_inputs
from .images import ImageInput, load_images, normalize_pixels, resize_image
from .prompts import PADDING, nesting_depth, to_lists
from .rows import concept_rows
from .tokenization import clip_tokenizer, tokenize_phrases

__all__ = ["Sam3Processor", "Sam3TrackerProcessor"]

_CONFIG_FILES = ("processor_config.json", "preprocessor_config.json")  # the hub's, and what older releases wrote
_TOKENIZER_FILES = ("tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt")
_HALF = (0.5, 0.5, 0.5)


class Sam3Processor(PushToHubMixin):
    """Prepares pictures and prompts for the SAM 3 models and turns their outputs into masks.

    `size` {"height", "width"} (or one number) is the square that the model sees, `image_mean` and `image_std` belong to
    pixel values in 0..1, `tokenizer` is a CLIP tokenizer of transformers (default: the packaged vocabulary).
    """

    default_prompt_kind = "exemplars"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        size: dict[str, int] | int = 1008,
        image_mean: Sequence[float] = _HALF,
        image_std: Sequence[float] = _HALF,
    ) -> None:
        self.tokenizer = clip_tokenizer() if tokenizer is None else tokenizer
        self.size = _square(size)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    @property
    def image_size(self) -> int:
        """Side of the square that the model sees, in pixels."""
        return self.size["height"]

    @property
    def model_input_names(self) -> list[str]:
        """Names of all the tensors that a call may return."""
        exemplars = ["input_boxes", "input_boxes_labels", "input_points", "input_points_labels", "input_labels"]
        return ["pixel_values", "original_sizes", "input_ids", "attention_mask", "image_ids", *exemplars]

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput] | None = None,
        text: str | Sequence[str | None] | Sequence[Sequence[str | None]] | None = None,
        input_boxes: Any = None,
        input_boxes_labels: Any = None,
        input_points: Any = None,
        input_points_labels: Any = None,
        input_labels: Any = None,
        original_sizes: Sequence[Sequence[int]] | Tensor | None = None,
        prompt_kind: str | None = None,
        return_tensors: str | None = "pt",
        device: torch.device | str | None = None,
    ) -> BatchFeature:
        """The model's inputs, by name, with a method `.to(device)`.

        Concept prompts make one row for each picture-phrase pair:
            `pixel_values` (num_images, 3, S, S) float32; `original_sizes` (num_rows, 2) int64 (height, width);
            `input_ids` and `attention_mask` (num_rows, 32); `input_boxes` (num_rows, max_boxes, 4) cxcywh in 0..1 and
            `input_points` (num_rows, max_points, 2) in 0..1 with `..._labels` in {1, 0, -10}; `image_ids` (num_rows,)
            where several rows share a picture.
        Clicks ("objects") make one mask for each object, in transformers' `Sam3TrackerProcessor` conventions:
            `input_points` (num_images, num_objects, num_points, 2), `input_labels` and `input_boxes` (num_images,
            num_objects, 4) in pixels of the model; `original_sizes` (num_images, 2).

        Given are boxes [row][box][x0, y0, x1, y1], points [row][point][x, y] in pixels of the upright picture, labels
        [row][label]. `text` is one phrase for all pictures, one for each, several for a single picture, or nested
        [[...], [...]] by picture; None where a row has only boxes or points.  `prompt_kind` "exemplars" or "objects"
        overrides what the arguments suggest (`input_labels` or points [picture][object][point][x, y] are clicks; boxes
        alone follow `default_prompt_kind`). `original_sizes` stands in for `images` where the picture was encoded
        before. `device` is where the tensors are put.

        Raises ValueError or TypeError naming the picture, row, box or point that cannot be used; warns of boxes that
        were clipped and of phrases that were cut.
        """
        if return_tensors not in ("pt", None):
            raise ValueError(f"return_tensors is {return_tensors!r}; only 'pt' (torch) is supported.")
        prompts = {
            "input_boxes": input_boxes,
            "input_boxes_labels": input_boxes_labels,
            "input_points": input_points,
            "input_points_labels": input_points_labels,
            "input_labels": input_labels,
        }
        prompts = {name: value for name, value in prompts.items() if value is not None}
        if images is None and text is None and not prompts:
            raise ValueError("no picture and no prompt; pass images, and text, input_boxes or input_points.")
        data: dict[str, Tensor] = {}
        sizes = _given_sizes(original_sizes)
        if images is not None:
            pictures = load_images(images)
            data["pixel_values"] = self._pixel_values(pictures)
            sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
        if self._are_objects(text, prompts, prompt_kind):
            data |= self._object_inputs(text, sizes, prompts)
        elif text is not None or prompts:
            concept_data, image_ids = self._concept_inputs(text, sizes, prompts)
            data |= concept_data
            if sizes is not None and image_ids is not None:
                sizes = [sizes[index] for index in image_ids]
        if sizes is not None:
            data["original_sizes"] = torch.tensor(sizes, dtype=torch.int64)
        inputs = BatchFeature(data)
        return inputs if device is None else inputs.to(device)

    def _pixel_values(self, pictures: list[Tensor]) -> Tensor:
        resized = (resize_image(picture, self.size) for picture in pictures)
        return torch.stack([normalize_pixels(picture, self.image_mean, self.image_std) for picture in resized])

    def _are_objects(self, text: Any, prompts: dict[str, Any], prompt_kind: str | None) -> bool:
        """Whether points and boxes mark single objects rather than show examples of a concept."""
        if prompt_kind not in (None, "exemplars", "objects"):
            raise ValueError(f"prompt_kind is {prompt_kind!r}; expected 'exemplars', 'objects' or None.")
        if not prompts:
            return False
        if prompt_kind is not None:
            return prompt_kind == "objects"
        if "input_boxes_labels" in prompts or "input_points_labels" in prompts:
            return False
        if "input_labels" in prompts or self.default_prompt_kind == "objects":
            return True
        by_picture = isinstance(text, list | tuple) and any(isinstance(entry, list | tuple) for entry in text)
        points = to_lists(prompts.get("input_points"), "input_points")
        return not by_picture and nesting_depth(points) == 4

    def _object_inputs(
        self, text: Any, sizes: list[tuple[int, int]] | None, prompts: dict[str, Any]
    ) -> dict[str, Tensor]:
        if text is not None:
            raise ValueError(
                f"text {text!r} with clicks: a click marks one object and takes no phrase. "
                "For examples of a phrase give points as [row][point][x, y] with input_points_labels, "
                "or pass prompt_kind='exemplars'."
            )
        unknown = [name for name in prompts if name not in ("input_points", "input_labels", "input_boxes")]
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)} with clicks; their labels are input_labels [picture][object][point]."
            )
        if sizes is None:
            raise ValueError("clicks need the picture's size; pass images, or original_sizes [(height, width), ...].")
        return click_inputs(sizes, self.image_size, **prompts)

    def _concept_inputs(
        self, text: Any, sizes: list[tuple[int, int]] | None, prompts: dict[str, Any]
    ) -> tuple[dict[str, Tensor], list[int] | None]:
        if "input_labels" in prompts:
            raise ValueError(
                "input_labels belong to clicks; exemplars take input_points_labels and input_boxes_labels."
            )
        rows = concept_rows(text, sizes, **prompts)
        data = tokenize_phrases(rows.phrases, self.tokenizer)
        data |= rows.exemplars
        num_images = len(sizes) if sizes is not None else max(rows.image_ids or [0]) + 1
        if rows.image_ids is not None and rows.image_ids != list(range(num_images)):
            data["image_ids"] = torch.tensor(rows.image_ids, dtype=torch.int64)
        return data, rows.image_ids

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> "Sam3Processor":
        """The processor of a local directory or hub repository, ours or transformers'.

        Keyword arguments of the constructor override what is read there (`size={"height": 560, "width": 560}`); all
        others, such as `revision`, `token` or `cache_dir`, go to the hub.  Without tokenizer files the packaged CLIP
        vocabulary is used. Raises OSError, saying what to do, for a missing or gated repository and for a directory
        without a processor configuration.
        """
        own = {key: kwargs.pop(key) for key in ("tokenizer", "size", "image_mean", "image_std") if key in kwargs}
        folder = local_directory(pretrained_model_name_or_path, patterns=[*_CONFIG_FILES, *_TOKENIZER_FILES], **kwargs)
        arguments = _read_config(folder) | own
        if arguments.get("tokenizer") is None:
            arguments["tokenizer"] = _read_tokenizer(folder)
        return cls(**arguments)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Paths of the files written to `save_directory`, which this class and transformers' SAM 3 processors open.

        With `push_to_hub` they are uploaded too, to `repo_id` (default: the directory's name); the other keyword
        arguments go there.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _CONFIG_FILES[0]
        path.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        written = [str(path), *self.tokenizer.save_pretrained(folder)]
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)
        return written

    def to_dict(self) -> dict[str, Any]:
        """The content of `processor_config.json`, in the layout of the hub's repository."""
        common: dict[str, Any] = {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": self.image_mean,
            "image_std": self.image_std,
            "resample": 2,  # PIL's number for bilinear
            "rescale_factor": 1 / 255,
            "size": self.size,
        }
        image_processor = {**common, "image_processor_type": "Sam3ImageProcessor"}
        video_processor = {**common, "video_processor_type": "Sam2VideoVideoProcessor", "return_metadata": False}
        return {
            "image_processor": image_processor,
            "processor_class": "Sam3VideoProcessor",
            "target_size": self.image_size,
            "video_processor": video_processor,
        }

    def post_process_instance_segmentation(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """See `processing.postprocess.post_process_instance_segmentation`."""
        return postprocess.post_process_instance_segmentation(*args, **kwargs)

    def post_process_semantic_segmentation(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """See `processing.postprocess.post_process_semantic_segmentation`."""
        return postprocess.post_process_semantic_segmentation(*args, **kwargs)

    def post_process_object_detection(self, *args: Any, **kwargs: Any) -> list[dict[str, Tensor]]:
        """See `processing.postprocess.post_process_object_detection`."""
        return postprocess.post_process_object_detection(*args, **kwargs)

    def post_process_masks(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """See `processing.postprocess.post_process_masks`."""
        return postprocess.post_process_masks(*args, **kwargs)

    # ---- videos (`sam3_hf.video`, loaded when first used) ----

    def init_video_session(
        self,
        video: Any = None,
        inference_device: torch.device | str = "cpu",
        inference_state_device: torch.device | str | None = None,
        processing_device: torch.device | str | None = None,
        video_storage_device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> Any:
        """A `VideoSession`: what is known of one video while it is followed.

        Args:
            video: path of a file or folder, list, array, generator, camera index, or what `open_video` returned; None:
                frames come one by one (`model(inference_session=..., frame=...)`).
            inference_device: where the model runs.
            inference_state_device: where memories are kept; None: with the model. "cpu" saves accelerator memory.
            processing_device, video_storage_device, dtype: transformers' arguments, accepted and not needed: frames are
                read, used and dropped, in the model's dtype.
            options: `rules` (a `VideoRules`), `objects_at_once`, `forget_after`, `memory_dtype`; see `VideoSession`.
        """
        del processing_device, video_storage_device, dtype
        from ..video import FrameSource, VideoSession, open_video

        frames = video if video is None or isinstance(video, FrameSource) else open_video(video)
        return VideoSession(
            frames,
            self.image_size,
            device=inference_device,
            storage_device=inference_state_device,
            image_mean=self.image_mean,
            image_std=self.image_std,
            **options,
        )

    def add_text_prompt(
        self,
        inference_session: Any,
        text: str | Sequence[str] | None,
        frame_idx: int | None = None,
        input_boxes: Any = None,
        input_boxes_labels: Any = None,
        original_size: Sequence[int] | None = None,
    ) -> Any:
        """The session, with phrases whose objects are looked for on every frame from now on.

        Args:
            inference_session: from `init_video_session`.
            text: a phrase, or several; None with boxes: what the boxes show.
            frame_idx: frame of the boxes.
            input_boxes: [[x0, y0, x1, y1], ...] example boxes in pixels, for the one phrase; they count on their frame.
            input_boxes_labels: 1 (positive, the default) or 0 (negative) for each.
            original_size: (height, width) of the frames, for a stream before its first frame.
        """
        from ..video import Concept

        phrases = [text] if text is None or isinstance(text, str) else list(text)
        if not phrases or (text is None and input_boxes is None):
            raise ValueError("no phrase and no boxes; give text='a phrase', or input_boxes with frame_idx.")
        shown: dict[str, Any] = {}
        if input_boxes is not None:
            if len(phrases) > 1 or frame_idx is None:
                raise ValueError("boxes belong to one phrase and one frame; give a single text and frame_idx.")
            inference_session.check_frame(frame_idx)
            size = _frame_size(inference_session, original_size)
            labels = None if input_boxes_labels is None else [input_boxes_labels]
            shown = dict(
                self(
                    text=phrases,
                    input_boxes=[input_boxes],
                    input_boxes_labels=labels,
                    original_sizes=[size],
                    prompt_kind="exemplars",
                )
            )
        for phrase in phrases:
            tokens = shown or self(text=phrase if phrase is not None else "visual")
            exemplars = {}
            if shown and frame_idx is not None:
                exemplars[frame_idx] = (shown["input_boxes"][0], shown["input_boxes_labels"][0])
            concept = Concept(phrase or "visual", tokens["input_ids"], tokens["attention_mask"], exemplars)
            inference_session.add_concept(concept)
        return inference_session

    def add_inputs_to_inference_session(
        self,
        inference_session: Any,
        frame_idx: int,
        obj_ids: int | Sequence[int],
        input_points: Any = None,
        input_labels: Any = None,
        input_boxes: Any = None,
        input_masks: Any = None,
        original_size: Sequence[int] | Tensor | None = None,
        clear_old_inputs: bool = True,
    ) -> Any:
        """The session, with objects pointed out on a frame: new ones, or corrections of those that are followed.

        Args:
            inference_session: from `init_video_session`.
            frame_idx: number of the frame.
            obj_ids: number of each object.
            input_points: [[[[x, y], ...], ...]] in pixels: [picture][object][point].
            input_labels: [[[1, 0, ...], ...]] 1 on the object, 0 off it.
            input_boxes: [[[x0, y0, x1, y1], ...]]: [picture][object].
            input_masks: (objects, height, width), or one (height, width): the objects' exact masks.
            original_size: (height, width) of the frames, for a stream before its first frame.
            clear_old_inputs: forget earlier prompts of these objects on this frame; False adds points to them.
        """
        from ..video import ObjectPrompt

        ids = [int(obj_ids)] if isinstance(obj_ids, int) else [int(number) for number in obj_ids]
        if len(set(ids)) < len(ids):
            raise ValueError(f"obj_ids {ids} name an object twice; give each once, with all its points.")
        if (input_masks is None) == (input_points is None and input_boxes is None):
            raise ValueError("give points or boxes (or both), or masks; not neither, and not masks beside them.")
        inference_session.check_frame(frame_idx)
        if input_masks is not None:
            masks = torch.as_tensor(input_masks)
            masks = masks[None] if masks.dim() == 2 else masks
            if masks.dim() != 3 or len(masks) != len(ids):
                raise ValueError(f"input_masks have shape {tuple(masks.shape)}; expected ({len(ids)}, height, width).")
            if original_size is not None:
                _frame_size(inference_session, original_size)
            prompts = [ObjectPrompt(mask=mask > 0) for mask in masks]
        else:
            size = _frame_size(inference_session, original_size)
            given = {"input_points": input_points, "input_labels": input_labels, "input_boxes": input_boxes}
            clicks = click_inputs([size], self.image_size, **given)
            counts = {len(tensor[0]) for tensor in clicks.values()}
            if counts != {len(ids)}:
                raise ValueError(f"prompts for {counts} objects, but obj_ids names {len(ids)}: {ids}.")
            prompts = [_object_prompt(clicks, row) for row in range(len(ids))]
        for number, prompt in zip(ids, prompts, strict=True):
            inference_session.add_prompt(number, frame_idx, prompt, keep_points=not clear_old_inputs)
        return inference_session

    def postprocess_outputs(
        self,
        inference_session: Any,
        model_outputs: Any,
        original_sizes: Sequence[Sequence[int]] | Tensor | None = None,
    ) -> dict[str, Any]:
        """The objects to show on a frame; see `video.postprocess_outputs`.

        Args:
            inference_session: the session.
            model_outputs: what the model gave for the frame.
            original_sizes: [(height, width)], for frames that were given as pixel values.
        """
        from ..video import postprocess_outputs

        if original_sizes is not None:
            (size,) = _given_sizes(original_sizes)[:1]  # type: ignore[index]
        else:
            size = _frame_size(inference_session, None)
        model_outputs.prompts = inference_session.prompts
        return postprocess_outputs(model_outputs, size)


class Sam3TrackerProcessor(Sam3Processor):
    """A `Sam3Processor` whose points and boxes mark single objects unless told otherwise, as in transformers."""

    default_prompt_kind = "objects"


def _square(size: dict[str, int] | int) -> dict[str, int]:
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if set(size) != {"height", "width"} or size["height"] != size["width"] or size["height"] < 1:
        raise ValueError(f"size is {size}; expected a square such as {{'height': 1008, 'width': 1008}}, or its side.")
    return {"height": int(size["height"]), "width": int(size["width"])}


def _frame_size(session: Any, original_size: Any) -> tuple[int, int]:
    """(height, width) of a video's frames."""
    if original_size is not None:
        height, width = torch.as_tensor(original_size).flatten().tolist()
        if session.video_size is None:
            session.video_size = (int(height), int(width))
        return int(height), int(width)
    if session.video_size is None:
        raise ValueError("the size of the frames is not known yet; pass original_size=(height, width).")
    return session.video_size


def _object_prompt(clicks: dict[str, Tensor], row: int) -> Any:
    """One object's points; a box is two of them, and comes first."""
    from ..video import ObjectPrompt

    points, labels = torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)
    if "input_boxes" in clicks:
        points = torch.cat((points, clicks["input_boxes"][0, row].view(2, 2)))
        labels = torch.cat((labels, torch.tensor([2, 3])))
    if "input_points" in clicks:
        kept = clicks["input_labels"][0, row] != PADDING
        points = torch.cat((points, clicks["input_points"][0, row][kept]))
        labels = torch.cat((labels, clicks["input_labels"][0, row][kept]))
    return ObjectPrompt(points=points, labels=labels)


def _given_sizes(original_sizes: Any) -> list[tuple[int, int]] | None:
    if original_sizes is None:
        return None
    sizes = to_lists(original_sizes, "original_sizes")
    if nesting_depth(sizes) != 2 or any(len(size) != 2 or min(size) < 1 for size in sizes):
        raise ValueError(f"original_sizes is {sizes}; expected [(height, width), ...] of the pictures.")
    return [(int(height), int(width)) for height, width in sizes]


def _read_config(folder: Path) -> dict[str, Any]:
    """`size`, `image_mean` and `image_std` of the first processor configuration found."""
    for path in (folder / file for file in _CONFIG_FILES):
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            config = config.get("image_processor", config)
            return {key: config[key] for key in ("size", "image_mean", "image_std") if key in config}
    raise OSError(
        f"{str(folder)!r} has no {' or '.join(_CONFIG_FILES)}; "
        "save one there with Sam3Processor().save_pretrained(...), or use Sam3Processor(size=...) directly."
    )


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json")):
        return clip_tokenizer()
    return CLIPTokenizer.from_pretrained(folder)
