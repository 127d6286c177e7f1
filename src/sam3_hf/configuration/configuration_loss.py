"""Weights and rules of the training losses; the defaults are those of the released model's recipe."""

from dataclasses import dataclass

__all__ = ["Sam3LossConfig"]


@dataclass(frozen=True)
class Sam3LossConfig:
    """How a detector is trained: matching costs, loss weights, DAC.

    Values from facebookresearch/sam3 `train/configs/roboflow_v100` and the paper's appendix C.4.

    Attributes:
        cost_class: weight of the class in the one-to-one matching cost (focal form).
        cost_bbox: weight there of the L1 distance of boxes (cxcywh, 0..1).
        cost_giou: weight there of the generalised IoU.
        o2m_alpha: share of the class score in the one-to-many matching score.
        o2m_threshold: least score of a one-to-many match.
        o2m_topk: queries that one target may be matched to.
        weight_bbox: weight of the L1 loss.
        weight_giou: weight of the generalised IoU loss.
        weight_class: weight of the IoU-aware class loss (paper: 100).
        class_positive: extra weight of matched queries in it.
        class_alpha: exponent of the probability in the target p^class_alpha·IoU^class_beta.
        class_beta: exponent of the boxes' IoU in it; None: 1 - class_alpha, as released. A small model whose boxes fit
            less well than its masks needs less, or it scores below 0.5 what it has found.
        class_gamma: exponent of p on unmatched queries.
        class_queries: the class loss is a mean over at least so many queries.
        weight_presence: weight of the presence loss; 0 trains without it (a model without presence head).
        weight_mask: weight of the masks' focal loss.
        weight_dice: weight of the masks' dice loss.
        mask_alpha: balance of object and background pixels in the focal loss.
        mask_gamma: exponent of the focal loss.
        mask_points: number of sampled points per mask (Kirillov et al. 2020, PointRend); None: every pixel.
        weight_semantic: weight of the semantic map's focal loss.
        weight_semantic_dice: weight of its dice loss.
        semantic_alpha: as `mask_alpha`, for the semantic map.
        dac: train a copy of the queries with one-to-many matches (DAC-DETR, Hu et al. 2023).
        weight_o2m: weight of the copy's losses.
        denoise: with `dac`, this many of the copy's queries start from noisy boxes of each target and belong to it, in
            place of one-to-many matching (DN-DETR, Li et al. 2022); 0: as released. Helps models trained from scratch.
        scale_by_rows: multiply the total by √rows, as the reference's recipe does.
    """

    cost_class: float = 2.0
    cost_bbox: float = 5.0
    cost_giou: float = 2.0
    o2m_alpha: float = 0.3
    o2m_threshold: float = 0.4
    o2m_topk: int = 4
    weight_bbox: float = 5.0
    weight_giou: float = 2.0
    weight_class: float = 20.0
    class_positive: float = 10.0
    class_alpha: float = 0.25
    class_beta: float | None = None
    class_gamma: float = 2.0
    class_queries: int = 200
    weight_presence: float = 20.0
    weight_mask: float = 200.0
    weight_dice: float = 10.0
    mask_alpha: float = 0.25
    mask_gamma: float = 2.0
    mask_points: int | None = None
    weight_semantic: float = 20.0
    weight_semantic_dice: float = 30.0
    semantic_alpha: float = 0.6
    dac: bool = True
    weight_o2m: float = 2.0
    denoise: int = 0
    scale_by_rows: bool = False

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        negative = {name: value for name, value in numbers.items() if value < 0}
        if negative:
            raise ValueError(f"weights and counts of losses must not be negative, got {negative}")
        if self.mask_points is not None and self.mask_points < 1:
            raise ValueError(f"mask_points must be at least 1, or None for all pixels; got {self.mask_points}")
