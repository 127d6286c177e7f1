"""The same answer however a question is put: batched or alone, padded or not, in any dtype and attention, compiled."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sam3_hf import Sam3Config, Sam3Detector, Sam3DetectorConfig, Sam3Model, tiny_config
from sam3_hf.modeling import detector as detector_module
from sam3_hf.modeling.heads import suppress_duplicates
from sam3_hf.ops.masks import mask_iou

TOLERANCE = 1e-4
OUTPUTS = ("pred_masks", "pred_boxes", "pred_logits", "presence_logits", "semantic_seg")


@pytest.fixture(scope="module")
def model() -> Sam3Model:
    torch.manual_seed(0)
    return Sam3Model(tiny_config()).eval()


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    """Two pictures, two phrases, and exemplars with padding."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(2, 32, dtype=torch.long)
    mask[0, :4] = mask[1, :7] = 1
    boxes = torch.tensor([[[0.3, 0.5, 0.2, 0.3], [0.7, 0.3, 0.2, 0.2]], [[0.5, 0.5, 0.9, 0.8], [-10.0] * 4]])
    points = torch.tensor([[[0.3, 0.5]], [[0.6, 0.2]]])
    return {
        "pixel_values": torch.randn(2, 3, 224, 224, generator=generator),
        "input_ids": torch.randint(1, 49000, (2, 32), generator=generator),
        "attention_mask": mask,
        "input_boxes": boxes,
        "input_boxes_labels": torch.tensor([[1, 0], [1, -10]]),
        "input_points": points,
        "input_points_labels": torch.tensor([[1], [0]]),
    }


def assert_same(actual: Any, expected: Any, tolerance: float = TOLERANCE, rows: slice = slice(None)) -> None:
    for name in OUTPUTS:
        error = (actual[name].float() - expected[name][rows].float()).abs().max().item()
        assert error <= tolerance, f"{name}: off by {error:.2e}"


def test_a_batch_equals_its_items_one_by_one(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    batch = model(**inputs)
    for i in range(2):
        assert_same(model(**{k: v[i : i + 1] for k, v in inputs.items()}), batch, rows=slice(i, i + 1))


def test_phrases_on_one_picture_equal_calls_and_share_one_vision_pass(
    model: Sam3Model, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    tower = model.detector_model.vision_encoder
    whole_forward = type(tower.backbone).forward
    monkeypatch.setattr(
        type(tower.backbone), "forward", lambda self, x: passes.append(len(x)) or whole_forward(self, x)
    )
    prompts = {k: v for k, v in inputs.items() if k != "pixel_values"}
    together = model(pixel_values=inputs["pixel_values"][:1], **prompts)
    assert passes == [1]
    for i in range(2):
        one = {k: v[i : i + 1] for k, v in prompts.items()}
        assert_same(model(pixel_values=inputs["pixel_values"][:1], **one), together, rows=slice(i, i + 1))


def test_image_ids_say_which_picture_a_row_asks(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    ids, mask = inputs["input_ids"][[0, 1, 0]], inputs["attention_mask"][[0, 1, 0]]
    pictures = torch.tensor([0, 0, 1])
    rows = model(pixel_values=inputs["pixel_values"], input_ids=ids, attention_mask=mask, image_ids=pictures)
    for i, picture in enumerate(pictures.tolist()):
        alone = model(
            pixel_values=inputs["pixel_values"][picture : picture + 1],
            input_ids=ids[i : i + 1],
            attention_mask=mask[i : i + 1],
        )
        assert_same(alone, rows, rows=slice(i, i + 1))


def test_many_rows_go_through_in_groups_with_the_same_answer(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    rows = torch.tensor([0, 1, 1, 0, 1, 0])
    assert len(rows) > detector_module.ROWS_AT_ONCE
    prompts = {k: v[rows] for k, v in inputs.items() if k != "pixel_values"}
    grouped = model(pixel_values=inputs["pixel_values"], image_ids=rows, **prompts)
    assert_same(model(**{k: v[rows] for k, v in inputs.items()}), grouped)
    with torch.inference_mode(False), torch.enable_grad():  # with gradients, all rows at once
        tensors = {k: v.clone() for k, v in prompts.items()}
        at_once = model(pixel_values=inputs["pixel_values"].clone(), image_ids=rows.clone(), **tensors)
    assert at_once.pred_masks.requires_grad
    assert_same(at_once, grouped)


def test_one_phrase_asks_all_pictures(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    text = {k: inputs[k][:1] for k in ("input_ids", "attention_mask")}
    both = model(pixel_values=inputs["pixel_values"], **text)
    for i in range(2):
        assert_same(model(pixel_values=inputs["pixel_values"][i : i + 1], **text), both, rows=slice(i, i + 1))


def test_padding_changes_nothing(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    row = {k: v[1:] for k, v in inputs.items()}
    bare = row | {"input_boxes": row["input_boxes"][:, :1], "input_boxes_labels": row["input_boxes_labels"][:, :1]}
    assert_same(model(**row), model(**bare), 1e-5)
    other = row | {"input_boxes": row["input_boxes"].clone()}
    other["input_boxes"][:, 1] = 1e6  # what stands in the padding is not looked at
    assert_same(model(**row), model(**other), 0.0)
    tokens = row | {"input_ids": row["input_ids"].clone()}
    tokens["input_ids"][:, 7:] = 5
    assert_same(model(**row), model(**tokens), 1e-5)


def test_an_exemplar_and_its_label_change_the_answer(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    row = {k: v[:1] for k, v in inputs.items()}
    plain = {k: v for k, v in row.items() if k in ("pixel_values", "input_ids", "attention_mask")}
    names = ("input_boxes", "input_points")
    flipped = {f"{name}_labels": 1 - row[f"{name}_labels"] for name in names}
    answers = [model(**plain), model(**row), model(**row | flipped)]
    answers += [model(**plain, **{k: v for k, v in row.items() if k.startswith(name)}) for name in names]
    logits = [answer.pred_logits for answer in answers]
    assert all((a - b).abs().max() > 1e-4 for i, a in enumerate(logits) for b in logits[:i])


def test_duplicates_of_a_better_query_answer_nothing(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    detector = model.detector_model
    plain = detector(**inputs)
    detector.config.duplicate_iou = 0.3
    try:
        told = detector(**inputs)
        detector.config.duplicate_iou = 1.0
        assert_same(detector(**inputs), plain)
    finally:
        detector.config.duplicate_iou = None
    fell = told.pred_logits == -12
    assert fell.any() and not fell.all()
    assert torch.equal(told.pred_logits[~fell], plain.pred_logits[~fell])
    assert torch.equal(told.pred_masks, plain.pred_masks)
    for masks, logits, gone in zip(plain.pred_masks, plain.pred_logits, fell, strict=True):
        overlap = mask_iou(masks > 0, masks > 0)
        better = logits[None] > logits[:, None]
        assert torch.equal(((overlap > 0.3) & better & ~gone[None]).any(1), gone)


def test_queries_that_answer_nothing_are_no_duplicates() -> None:
    masks = torch.ones(1, 4, 8, 8)
    logits = torch.tensor([[-9.0, 2.0, 3.0, -4.0]])
    assert suppress_duplicates(logits, masks, 0.5).tolist() == [[-9.0, -12.0, 3.0, -12.0]]
    assert logits[0, 1] == 2
    with pytest.raises(ValueError, match=r"duplicate_iou is 1\.5; expected an IoU in 0\.\.1"):
        Sam3DetectorConfig(duplicate_iou=1.5)


def test_features_computed_ahead_equal_those_computed_on_the_way(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    expected = model(**inputs)
    rest = {k: v for k, v in inputs.items() if k not in ("pixel_values", "input_ids")}
    vision = model.get_vision_features(inputs["pixel_values"])
    text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    assert_same(model(vision_embeds=vision, text_embeds=text, **rest), expected, 0.0)
    assert_same(model(vision_embeds=vision, text_embeds=text.pooler_output, **rest), expected, 0.0)


def test_eager_attention_equals_sdpa(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    eager = Sam3Model(tiny_config()).eval()
    eager.load_state_dict(model.state_dict())
    eager.set_attn_implementation("eager")
    layer = eager.detector_model.detr_decoder.layers[0]
    assert layer.self_attn.config._attn_implementation == "eager"
    assert_same(eager(**inputs), model(**inputs))
    clicks = {"input_points": torch.tensor([[[[60.0, 100.0]]]] * 2)}
    a, b = (m.segment_objects(pixel_values=inputs["pixel_values"], **clicks) for m in (eager, model))
    assert (a.pred_masks - b.pred_masks).abs().max() < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_nearly_the_same_masks(
    model: Sam3Model, inputs: dict[str, Tensor], dtype: torch.dtype
) -> None:
    half = Sam3Model(tiny_config()).eval()
    half.load_state_dict(model.state_dict())
    half.to(dtype)
    expected, actual = model(**inputs).pred_masks > 0, half(**inputs).pred_masks > 0
    overlap, union = (expected & actual).sum((-1, -2)), (expected | actual).sum((-1, -2))
    drawn = union > 0
    assert drawn.any()
    assert (overlap[drawn] / union[drawn]).mean() > 0.98
    out = half(**inputs)
    assert out.pred_boxes.dtype == out.presence_logits.dtype == out.pred_logits.dtype == torch.float32


def test_compiled_model_agrees(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    expected = model(**inputs)
    torch._dynamo.reset()
    # "aot_eager" traces and rewrites the graph as inductor does, without asking for a C++ compiler.
    compiled = torch.compile(model, backend="aot_eager")
    assert_same(compiled(**inputs), expected)


def test_one_phrase_and_a_smaller_picture(inputs: dict[str, Tensor]) -> None:
    """Sizes that are no multiple of the window (12 tokens in windows of 8) work too."""
    config = tiny_config(image_size=168)
    config.detector_config.vision_config.backbone_config.window_size = 8
    detector = Sam3Detector(config.detector_config).eval()
    out = detector(pixel_values=torch.zeros(1, 3, 168, 168), input_ids=inputs["input_ids"][:1])
    assert out.pred_masks.shape == (1, 12, 48, 48)


def test_clicks_reuse_the_features_of_the_phrase(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    vision = model.get_vision_features(inputs["pixel_values"])
    found = model(vision_embeds=vision, input_ids=inputs["input_ids"])
    assert found.vision_embeds is vision
    clicks = {"input_points": torch.tensor([[[[60.0, 100.0]], [[20.0, 30.0]]]] * 2), "multimask_output": False}
    from_pixels = model.segment_objects(pixel_values=inputs["pixel_values"], **clicks)
    from_features = model.segment_objects(vision_embeds=vision, **clicks)
    again = model.segment_objects(
        image_embeddings=from_features.image_embeddings, input_masks=from_features.pred_masks[:, :, 0], **clicks
    )
    assert torch.equal(from_pixels.pred_masks, from_features.pred_masks)
    assert from_features.pred_masks.shape == (2, 2, 1, 64, 64)
    assert not torch.equal(again.pred_masks, from_features.pred_masks)  # the earlier mask is looked at


def test_objects_in_a_batch_equal_each_alone(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    """Also objects with fewer points, whose padding nothing attends to (transformers lets it be attended to)."""
    points = torch.tensor([[[[60.0, 100.0], [150.0, 80.0]], [[20.0, 30.0], [-10.0, -10.0]]]])
    labels = torch.tensor([[[1, 0], [1, -10]]])
    image = model.get_image_embeddings(inputs["pixel_values"][:1])
    together = model.segment_objects(image_embeddings=image, input_points=points, input_labels=labels)
    first = model.segment_objects(image_embeddings=image, input_points=points[:, :1], input_labels=labels[:, :1])
    second = model.segment_objects(
        image_embeddings=image, input_points=points[:, 1:, :1], input_labels=labels[:, 1:, :1]
    )
    for i, alone in enumerate((first, second)):
        assert (together.pred_masks[:, i] - alone.pred_masks[:, 0]).abs().max() < TOLERANCE
        assert (together.object_pointers[:, i] - alone.object_pointers[:, 0]).abs().max() < TOLERANCE


def test_the_pointer_says_when_there_is_no_object(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    absent = Sam3Model(tiny_config()).eval()
    absent.load_state_dict(model.state_dict())
    absent.tracker_model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(-100)
    out = absent.segment_objects(pixel_values=inputs["pixel_values"], input_points=torch.zeros(2, 1, 1, 2))
    assert torch.equal(out.object_pointers, absent.tracker_model.no_object_pointer.expand(2, 1, -1))


def test_moving_the_model_moves_everything(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    """On the meta device nothing that stayed behind can be computed with."""
    moved = Sam3Model(tiny_config()).eval().to("meta")
    out = moved(**{k: v.to("meta") for k, v in inputs.items() if "_boxes" not in k and "_points" not in k})
    assert out.pred_masks.device.type == "meta"


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu(model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    moved = Sam3Model(tiny_config()).eval()
    moved.load_state_dict(model.state_dict())
    moved.to("cuda")
    out = moved(**{k: v.cuda() for k, v in inputs.items()})
    assert_same({k: out[k].cpu() for k in OUTPUTS}, model(**inputs), 1e-2)


def test_training_step_reaches_every_parameter_that_answers(inputs: dict[str, Tensor]) -> None:
    with torch.inference_mode(False), torch.enable_grad():
        detector = Sam3Detector(tiny_config().detector_config).train()
        # its name from transformers 5.2x on, and before
        name = "activation_checkpointing_enable"
        getattr(detector, name, detector.gradient_checkpointing_enable)()
        out = detector(**{k: v.clone() for k, v in inputs.items()})
        sum(out[name].float().square().mean() for name in OUTPUTS).backward()
        without = {name.split(".")[0] for name, p in detector.named_parameters() if p.grad is None}
        allowed = {"text_encoder", "vision_encoder", "mask_decoder"}  # weights that no released model uses
        assert without <= allowed
        assert detector.vision_encoder.backbone.embeddings.position_embeddings.grad.abs().sum() > 0


BAD_CALLS: dict[str, tuple[Any, str]] = {
    "no pictures": (lambda m, x: m(input_ids=x["input_ids"]), "exactly one of pixel_values and vision_embeds"),
    "no phrases": (lambda m, x: m(pixel_values=x["pixel_values"]), "'visual'"),
    "a batch of zero": (lambda m, x: m(pixel_values=x["pixel_values"][:0], input_ids=x["input_ids"]), "batch of 0"),
    "another size": (lambda m, x: m(pixel_values=x["pixel_values"][..., :112], input_ids=x["input_ids"]), "image_size"),
    "3 phrases, 2 pictures": (
        lambda m, x: m(pixel_values=x["pixel_values"], input_ids=x["input_ids"][[0, 1, 1]]),
        "2 pictures and 3 rows",
    ),
    "boxes of another batch": (
        lambda m, x: m(pixel_values=x["pixel_values"], input_ids=x["input_ids"], input_boxes=torch.zeros(3, 1, 4)),
        "agree on the number of rows",
    ),
    "boxes with two numbers": (
        lambda m, x: m(pixel_values=x["pixel_values"], input_ids=x["input_ids"], input_boxes=torch.zeros(2, 1, 2)),
        "input_boxes must have shape",
    ),
    "a strange label": (
        lambda m, x: m(**x | {"input_boxes_labels": torch.tensor([[1, 7], [1, -10]])}),
        "1 .positive., 0 .negative.",
    ),
    "labels that do not match": (
        lambda m, x: m(**x | {"input_boxes_labels": torch.tensor([[1], [1]])}),
        "one label per entry",
    ),
    "a picture that is not there": (lambda m, x: m(**x, image_ids=torch.tensor([0, 2])), "image_ids must hold"),
    "a long phrase": (
        lambda m, x: m(pixel_values=x["pixel_values"], input_ids=torch.ones(2, 40, dtype=torch.long)),
        "context is 32",
    ),
    "clicks": (lambda m, x: m(**x, input_labels=torch.ones(2, 1, 1)), "segment_objects"),
    "boxes and points of different objects": (
        lambda m, x: m.segment_objects(
            pixel_values=x["pixel_values"], input_points=torch.zeros(2, 1, 1, 2), input_boxes=torch.zeros(2, 2, 4)
        ),
        "number of objects",
    ),
    "exemplar points as clicks": (
        lambda m, x: m.segment_objects(pixel_values=x["pixel_values"], input_points=torch.zeros(2, 1, 2)),
        "input_points must have 4 dimensions",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_are_named(name: str, model: Sam3Model, inputs: dict[str, Tensor]) -> None:
    call, message = BAD_CALLS[name]
    with pytest.raises(ValueError, match=message):
        call(model, inputs)


def test_points_are_refused_by_name_without_their_weights(inputs: dict[str, Tensor]) -> None:
    config: Sam3Config = tiny_config()
    config.detector_config.geometry_encoder_config.exemplar_points = False
    with pytest.raises(ValueError, match=r"no weights for point exemplars.*sam3-hf convert"):
        Sam3Model(config).eval()(**inputs)
