"""What the models return."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

__all__ = [
    "Sam3ClipOutput",
    "Sam3ImageSegmentationOutput",
    "Sam3ObjectSegmentationOutput",
    "Sam3TextEncoderOutput",
    "Sam3VisionEncoderOutput",
]


@dataclass
class Sam3VisionEncoderOutput(ModelOutput):
    """Features of pictures, computed once and used by any number of prompts.

    Attributes:
        last_hidden_state: (num_images, grid², hidden_size), the transformer's map, from which either neck is made.
        fpn_hidden_states: pyramid maps of 4, 2 and 1 times the grid, each (num_images, channels, height, width).
    """

    last_hidden_state: Tensor | None = None
    fpn_hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class Sam3TextEncoderOutput(ModelOutput):
    """Features of phrases.

    Attributes:
        last_hidden_state: (num_phrases, length, text_hidden_size).
        pooler_output: (num_phrases, length, hidden_size): the same tokens projected to the detector's width. The name
            is transformers'; nothing is pooled.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None


@dataclass
class Sam3ImageSegmentationOutput(ModelOutput):
    """What the detector answers for each row (picture-phrase pair).

    Attributes:
        loss: with labels, the training loss.
        loss_dict: with labels, its weighted terms by name, detached; they sum up to `loss`.
        pred_masks: (num_rows, num_queries, 4·grid, 4·grid) mask logits: a pixel belongs to the object where > 0.
        pred_boxes: (num_rows, num_queries, 4) xyxy as fractions of the picture.
        pred_logits: (num_rows, num_queries): is this query one of the phrase's objects, given that there are any?
        presence_logits: (num_rows, 1): is the phrase in the picture at all?
        semantic_seg: (num_rows, 1, 4·grid, 4·grid) logits of the union of all objects.
        vision_embeds: features of the pictures, for further prompts on them.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    pred_masks: Tensor | None = None
    pred_boxes: Tensor | None = None
    pred_logits: Tensor | None = None
    presence_logits: Tensor | None = None
    semantic_seg: Tensor | None = None
    vision_embeds: Sam3VisionEncoderOutput | None = None


@dataclass
class Sam3ClipOutput(ModelOutput):
    """What training on clips gives.

    Attributes:
        loss: mean over clips of the loss of following their objects.
        loss_dict: its weighted terms by name, detached; they sum up to `loss`.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None


@dataclass
class Sam3ObjectSegmentationOutput(ModelOutput):
    """What the tracker's heads answer for each object that was pointed at.

    Attributes:
        iou_scores: (num_images, num_objects, num_masks) predicted IoU of each mask with the object.
        pred_masks: (num_images, num_objects, num_masks, 4·grid, 4·grid) mask logits.
        object_score_logits: (num_images, num_objects, 1): is there an object?
        object_pointers: (num_images, num_objects, hidden_size): the object's token, which video memory keeps.
        image_embeddings: maps of 4, 2 and 1 times the grid, ready for the mask decoder; pass them back to answer
            further prompts on the same pictures.
    """

    iou_scores: Tensor | None = None
    pred_masks: Tensor | None = None
    object_score_logits: Tensor | None = None
    object_pointers: Tensor | None = None
    image_embeddings: tuple[Tensor, ...] | None = None
