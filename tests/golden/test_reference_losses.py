"""Matches and every loss term of facebookresearch/sam3 (stored by reference/remake_losses.py and make_losses.py)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sam3_hf.configuration import Sam3LossConfig
from sam3_hf.losses import Normalizer, QueryAnswers, Targets, detection_loss, match_one_to_many, match_one_to_one

TOLERANCE = 1e-5
CONFIG = Sam3LossConfig(weight_o2m=1.0)
WEIGHTS = {
    "loss_bbox": CONFIG.weight_bbox,
    "loss_giou": CONFIG.weight_giou,
    "loss_ce": CONFIG.weight_class,
    "loss_mask": CONFIG.weight_mask,
    "loss_dice": CONFIG.weight_dice,
}
FILES = {
    **dict.fromkeys(("case0", "case1", "case2"), "reference/losses.safetensors"),
    **dict.fromkeys(("one", "none", "boxes", "some"), "losses/cases.safetensors"),
}


class Case:
    """Inputs and outputs of one stored case."""

    def __init__(self, name: str) -> None:
        stored = load_file(Path(__file__).parent / FILES[name])
        self.inputs = {k.split(".", 2)[2]: v for k, v in stored.items() if k.startswith(f"{name}.in.")}
        self.outputs = {k.split(".", 2)[2]: v for k, v in stored.items() if k.startswith(f"{name}.out.")}
        counts = self.inputs["num_boxes"].tolist()
        self.labels: list[dict[str, Any]] = [
            {"boxes": boxes, "masks": masks}
            for boxes, masks in zip(self.inputs["boxes"].split(counts), self.inputs["masks"].split(counts), strict=True)
        ]
        self.targets = Targets.pack(self.labels, len(counts), torch.device("cpu"))
        if "has_mask" in self.inputs:  # the loss of single targets without mask; labels have all of a row's or none
            self.targets = Targets(**{**vars(self.targets), "has_mask": self.inputs["has_mask"]})

    def answers(self, kind: str) -> QueryAnswers:
        masks = self.inputs["pred_masks" + kind]

        def made(rows: Tensor, queries: Tensor) -> Tensor:
            return masks[rows, queries]

        return QueryAnswers(
            self.inputs["pred_logits" + kind][None, ..., 0], self.inputs["pred_boxes" + kind][None], made
        )


@pytest.fixture(params=FILES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_matches_are_exactly_the_references(case: Case) -> None:
    own = case.answers("")
    match = match_one_to_one(own.logits, own.boxes, case.targets, CONFIG)[0]
    assert match.rows.tolist() == case.outputs["match.batch"].tolist()
    assert match.queries.tolist() == case.outputs["match.query"].tolist()
    assert match.targets.tolist() == list(range(len(case.inputs["boxes"])))
    copies = case.answers("_o2m")
    match = match_one_to_many(copies.logits[0], copies.boxes[0], case.targets, CONFIG)
    assert match.rows.tolist() == case.outputs["match_o2m.batch"].tolist()
    assert match.queries.tolist() == case.outputs["match_o2m.query"].tolist()
    assert match.targets.tolist() == case.outputs["match_o2m.target"].tolist()


def test_every_term_equals_the_references(case: Case) -> None:
    loss, terms = detection_loss(
        case.answers(""),
        case.answers("_o2m"),
        case.inputs["presence_logit_dec"].T,
        case.inputs["semantic_seg"],
        case.targets,
        Normalizer.of(case.labels),
        CONFIG,
    )
    expected = {
        "loss_presence": CONFIG.weight_presence * case.outputs["presence_loss"],
        "loss_semantic": CONFIG.weight_semantic * case.outputs["loss_semantic_seg"],
        "loss_semantic_dice": CONFIG.weight_semantic_dice * case.outputs["loss_semantic_dice"],
    }
    for name, weight in WEIGHTS.items():
        for kind in ("", "_o2m"):
            expected[name + kind] = weight * case.outputs[name + kind]
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=TOLERANCE, abs=TOLERANCE), name
    assert loss.item() == pytest.approx(sum(terms.values()).item(), rel=1e-6)
