"""The detector's stage from scratch: outlines of objects, and one pass of the vision tower for all lessons."""

import pytest
import torch
import torch.nn.functional as F

from sam3_hf import Sam3Detector, Sam3Processor, tiny_config
from sam3_hf.data import SceneDataset
from sam3_hf.processing.tokenization import clip_tokenizer
from sam3_hf.training import ConceptDataset
from sam3_hf.training.lessons import MOST_NAMED, LessonCollator, Lessons, outline_loss
from sam3_hf.training.naming import NamingTrainer, named_objects


def two_squares() -> torch.Tensor:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 1:4, 1:4] = masks[1, 4:7, 4:8] = True
    return masks


def test_outlines_are_free_where_embeddings_tell_objects_apart() -> None:
    masks = two_squares()
    apart = 5.0 * F.one_hot(masks[0].long() + 2 * masks[1].long(), 3).permute(2, 0, 1).float()
    together = 5.0 * F.one_hot(masks.any(0).long(), 3).permute(2, 0, 1).float()
    labels = [{"masks": masks}]
    scale, bias = torch.tensor(20.0), torch.tensor(-10.0)
    assert outline_loss(apart[None], labels, scale, bias) < 0.01
    assert outline_loss(together[None], labels, scale, bias) > 0.3  # each finds the other too


def test_masks_of_twice_the_size_have_the_same_outlines() -> None:
    masks = two_squares()
    pixels, scale, bias = torch.randn(1, 4, 8, 8), torch.tensor(10.0), torch.tensor(-5.0)
    fine = masks.repeat_interleave(2, 1).repeat_interleave(2, 2)
    small, large = (outline_loss(pixels, [{"masks": some}], scale, bias) for some in (masks, fine))
    torch.testing.assert_close(small, large)


def test_rows_without_objects_have_no_outlines() -> None:
    pixels = torch.randn(2, 4, 8, 8, requires_grad=True)
    scale, bias = torch.tensor(10.0), torch.tensor(-5.0)
    nothing = outline_loss(pixels, [{"masks": torch.zeros(0, 8, 8)}, {"boxes": torch.zeros(1, 4)}], scale, bias)
    nothing.backward()
    assert nothing.item() == 0 and pixels.grad is not None
    masks = two_squares()
    hidden = torch.cat((masks, torch.zeros(1, 8, 8, dtype=torch.bool)))  # an object too small for the masks' grid
    assert outline_loss(pixels[:1], [{"masks": hidden}], scale, bias) == outline_loss(
        pixels[:1], [{"masks": masks}], scale, bias
    )


@pytest.fixture(scope="module")
def batch() -> dict[str, object]:
    data = ConceptDataset(SceneDataset(12, image_size=112), seed=1)
    samples = [data[index] for index in (4, 5, 6)]
    made = LessonCollator(Sam3Processor(size=112))(samples)
    for number, index in enumerate((4, 5, 6)):
        scene = SceneDataset(12, image_size=112)[index]
        coverage, names = named_objects(scene, 8, MOST_NAMED)
        assert torch.equal(made["object_names"][number], names)
        drawn = F.adaptive_avg_pool2d(made["object_masks"][number].float(), 8).flatten(1)
        assert (drawn - coverage).abs().max() < 0.3 and torch.equal(drawn.any(1), coverage.any(1))
    return made


def test_lessons_look_once_and_are_learned(batch: dict[str, object]) -> None:
    torch.manual_seed(0)
    detector = Sam3Detector(tiny_config(112).detector_config)
    lessons = Lessons(detector, NamingTrainer(detector, clip_tokenizer()), 1.0, 5.0).train()
    looks = []
    detector.vision_encoder.backbone.register_forward_hook(lambda *_: looks.append(1))
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    optimizer = torch.optim.Adam(lessons.parameters(), 2e-3)
    losses = []
    for step in range(12):
        loss, terms = lessons(inputs, batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert len(looks) == step + 1
    assert {"loss_outline", "loss_shape", "loss_dice", "loss_presence"} <= set(terms)
    assert losses[-1] < 0.8 * losses[0]


def test_corrections_are_shown_before_the_lesson(batch: dict[str, object]) -> None:
    torch.manual_seed(0)
    detector = Sam3Detector(tiny_config(112).detector_config)
    detector.dot_product_scoring.query_proj.weight.data.zero_()  # every query is sure and wrong, and objects are missed
    detector.dot_product_scoring.text_proj.weight.data.zero_()
    detector.dot_product_scoring.query_proj.bias.data.fill_(2.0)
    detector.dot_product_scoring.text_proj.bias.data.fill_(2.0)
    detector.detr_decoder.presence_head.get_submodule("layer3").bias.data.fill_(9.0)
    lessons = Lessons(detector, NamingTrainer(detector, clip_tokenizer()), 0.0, 0.0).train()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    shown: list[torch.Tensor] = []
    detector.register_forward_pre_hook(
        lambda _module, _args, given: shown.append(given["input_boxes_labels"]), with_kwargs=True
    )
    loss, terms = lessons(inputs, batch["labels"], 2)
    assert len(shown) == 3 and "loss_outline" not in terms and "loss_shape" not in terms
    counts = [[int((labels == kind).sum()) for kind in (1, 0)] for labels in shown]
    assert counts[0][1] == 0 < counts[1][1] < counts[2][1], "negative boxes are of false answers"
    assert counts[0][0] < counts[1][0] <= counts[2][0], "positive boxes are of missed objects"
    assert loss.requires_grad and torch.isfinite(loss)
