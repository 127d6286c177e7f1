"""Rows of concept prompts and clicks: what the arguments mean, and every way in which they can be wrong."""

import numpy as np
import PIL.Image
import pytest
import torch

from sam3_hf.processing import Sam3Processor, Sam3TrackerProcessor

BOX = [40, 30, 80, 90]


@pytest.fixture(scope="module")
def processor():
    return Sam3Processor(size=28)


@pytest.fixture(scope="module")
def tracker(processor):
    return Sam3TrackerProcessor(processor.tokenizer, size=100)


@pytest.fixture(scope="module")
def wide():
    return PIL.Image.new("RGB", (400, 300))


@pytest.fixture(scope="module")
def tall():
    return PIL.Image.new("RGB", (100, 200))


def phrases(processor, inputs):
    return [processor.tokenizer.decode(row[row != 49407][1:]).strip() for row in inputs["input_ids"]]


def test_a_phrase_makes_one_row_for_each_picture(processor, wide, tall):
    inputs = processor(images=[wide, tall], text="cat", return_tensors="pt")
    assert phrases(processor, inputs) == ["cat", "cat"]
    assert inputs["pixel_values"].shape == (2, 3, 28, 28)
    assert inputs["original_sizes"].tolist() == [[300, 400], [200, 100]]
    assert set(inputs) == {"pixel_values", "original_sizes", "input_ids", "attention_mask"}


def test_a_list_is_one_phrase_for_each_picture(processor, wide, tall):
    inputs = processor(images=[wide, tall], text=["cat", "dog"])
    assert phrases(processor, inputs) == ["cat", "dog"]
    assert "image_ids" not in inputs


def test_several_phrases_on_one_picture_encode_it_once(processor, wide):
    inputs = processor(images=wide, text=["cat", "dog", "car"])
    assert inputs["pixel_values"].shape[0] == 1
    assert inputs["image_ids"].tolist() == [0, 0, 0]
    assert inputs["original_sizes"].tolist() == [[300, 400]] * 3


def test_nested_phrases_belong_to_their_pictures(processor, wide, tall):
    inputs = processor(images=[wide, tall], text=[["cat", "dog"], ["car"]])
    assert phrases(processor, inputs) == ["cat", "dog", "car"]
    assert inputs["image_ids"].tolist() == [0, 0, 1]
    assert inputs["original_sizes"].tolist() == [[300, 400], [300, 400], [200, 100]]


def test_one_nested_phrase_each_needs_no_picture_ids(processor, wide, tall):
    assert "image_ids" not in processor(images=[wide, tall], text=[["cat"], ["car"]])


def test_text_alone_and_pictures_alone(processor, wide):
    assert set(processor(text=["cat", "dog"])) == {"input_ids", "attention_mask"}
    assert set(processor(images=wide)) == {"pixel_values", "original_sizes"}


def test_boxes_are_centre_format_in_0_to_1_and_get_label_1(processor, wide):
    inputs = processor(images=wide, input_boxes=[[BOX]])
    torch.testing.assert_close(inputs["input_boxes"], torch.tensor([[[60 / 400, 60 / 300, 40 / 400, 60 / 300]]]))
    assert inputs["input_boxes_labels"].tolist() == [[1]]
    assert inputs["input_boxes_labels"].dtype == torch.int64
    assert phrases(processor, inputs) == ["visual"]


def test_mixed_batch_pads_boxes_with_minus_10(processor, wide, tall):
    inputs = processor(
        images=[wide, tall, wide],
        text=["laptop", None, "handle"],
        input_boxes=[None, [BOX], [BOX, [0, 0, 400, 300]]],
        input_boxes_labels=[None, [1], [0, 1]],
    )
    assert phrases(processor, inputs) == ["laptop", "visual", "handle"]
    assert inputs["input_boxes_labels"].tolist() == [[-10, -10], [1, -10], [0, 1]]
    torch.testing.assert_close(inputs["input_boxes"][1, 0], torch.tensor([60 / 100, 60 / 200, 40 / 100, 60 / 200]))
    assert (inputs["input_boxes"][0] == -10).all()


def test_points_are_normalised_and_padded(processor, wide, tall):
    inputs = processor(
        images=[wide, tall],
        text=[None, "cat"],
        input_points=[[[100, 150], [400, 300]], [[50, 50]]],
        input_points_labels=[[1, 0], [0]],
    )
    torch.testing.assert_close(inputs["input_points"][:, 0], torch.tensor([[0.25, 0.5], [0.5, 0.25]]))
    assert inputs["input_points_labels"].tolist() == [[1, 0], [0, -10]]
    assert "input_boxes" not in inputs


def test_a_row_may_have_a_point_and_another_a_box(processor, wide):
    inputs = processor(images=[wide, wide], input_boxes=[[BOX], None], input_points=[None, [[1, 2]]])
    assert inputs["input_boxes_labels"].tolist() == [[1], [-10]]
    assert inputs["input_points_labels"].tolist() == [[-10], [1]]


@pytest.mark.parametrize(
    "convert", [np.array, torch.tensor, lambda b: [np.array(b[0])], lambda b: ((tuple(b[0][0]),),)]
)
def test_boxes_in_any_container(processor, wide, convert):
    plain = processor(images=wide, text="cat", input_boxes=[[BOX]], input_boxes_labels=[[0]])
    other = processor(images=wide, text="cat", input_boxes=convert([[BOX]]), input_boxes_labels=torch.tensor([[0]]))
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_boxes_follow_rows_or_the_nesting_of_phrases(processor, wide, tall):
    text = [["cat", None], ["car"]]
    flat = processor(
        images=[wide, tall], text=text, input_boxes=[None, [BOX], None], input_boxes_labels=[None, [0], None]
    )
    nested = processor(
        images=[wide, tall], text=text, input_boxes=[[None, [BOX]], None], input_boxes_labels=[[None, [0]], None]
    )
    assert phrases(processor, flat) == ["cat", "visual", "car"]
    assert all(torch.equal(flat[name], nested[name]) for name in flat)


def test_nested_boxes_without_text_make_the_rows(processor, wide, tall):
    inputs = processor(images=[wide, tall], input_boxes=[[[BOX], [BOX]], [[BOX]]])
    assert inputs["image_ids"].tolist() == [0, 0, 1]
    assert inputs["input_boxes"].shape == (3, 1, 4)


def test_one_phrase_with_several_exemplar_rows_on_one_picture(processor, wide):
    inputs = processor(images=wide, text="cat", input_boxes=[[BOX], [[1, 2, 3, 4]]])
    assert phrases(processor, inputs) == ["cat", "cat"]
    assert inputs["image_ids"].tolist() == [0, 0]


def test_padding_given_by_the_caller_changes_nothing(processor, wide):
    plain = processor(images=wide, text="cat", input_boxes=[[BOX]], input_boxes_labels=[[1]])
    padded = processor(
        images=wide, text="cat", input_boxes=[[BOX, [-10] * 4, [float("nan")] * 4]], input_boxes_labels=[[1, -10, -10]]
    )
    assert all(torch.equal(plain[name], padded[name]) for name in plain)


def test_exemplars_that_nobody_gave_leave_no_keys(processor, wide):
    assert "input_boxes" not in processor(images=wide, text="cat", input_boxes=[None])
    assert "input_boxes" not in processor(images=wide, text="cat", input_boxes=[[]], input_boxes_labels=[[]])


def test_original_sizes_stand_in_for_the_pictures(processor, wide):
    full = processor(images=wide, text="cat", input_boxes=[[BOX]])
    for sizes in ([(300, 400)], torch.tensor([[300, 400]])):
        short = processor(text="cat", input_boxes=[[BOX]], original_sizes=sizes)
        assert set(full) - set(short) == {"pixel_values"}
        assert all(torch.equal(full[name], short[name]) for name in short)


def test_a_box_partly_outside_is_clipped_with_a_warning(processor, wide):
    with pytest.warns(
        UserWarning, match=r"input_boxes, row 0, box 1: \[-20, 30, 80, 350\] is partly outside.*400 wide and 300 high"
    ):
        clipped = processor(images=wide, input_boxes=[[BOX, [-20, 30, 80, 350]]])
    exact = processor(images=wide, input_boxes=[[BOX, [0, 30, 80, 300]]])
    assert torch.equal(clipped["input_boxes"], exact["input_boxes"])


def test_batch_moves_as_one(processor, wide):
    assert processor(images=wide, text="cat").to("meta")["input_ids"].device.type == "meta"


BAD = {
    "nothing": ({"images": None}, ValueError, "no picture and no prompt"),
    "no picture": ({"images": None, "input_boxes": [[BOX]]}, ValueError, "input_boxes need the picture's size"),
    "empty batch": ({"images": [], "text": "cat"}, ValueError, "images is empty"),
    "empty phrase": ({"text": ""}, ValueError, "text, row 0: the phrase '' is empty"),
    "blank phrase": ({"text": ["cat", " \t"]}, ValueError, r"text, row 1: the phrase ' \\t' is empty"),
    "entity of a space": ({"text": "&nbsp;"}, ValueError, "the phrase '&nbsp;' is empty"),
    "no phrases": ({"text": []}, ValueError, "text is an empty list"),
    "number as text": ({"text": 5}, TypeError, r"text is 5 \(int\)"),
    "number among phrases": ({"text": ["cat", 5]}, TypeError, "text, row 1: 5 is int"),
    "row without prompt": ({"text": ["cat", None]}, ValueError, "text, row 1: no prompt"),
    "row without box": ({"images": "two", "input_boxes": [None, [BOX]]}, ValueError, "text, row 0: no prompt"),
    "only padding": ({"input_boxes": [[BOX]], "input_boxes_labels": [[-10]]}, ValueError, "text, row 0: no prompt"),
    "picture without phrase": ({"images": "two", "text": [["cat"], []]}, ValueError, "picture 1 has an empty list"),
    "phrases for other pictures": (
        {"images": "two", "text": ["a", "b", "c"]},
        ValueError,
        "3 prompts for 2 pictures.*nest them",
    ),
    "nested for other pictures": (
        {"images": "two", "text": [["a", "b"]]},
        ValueError,
        "for 1 pictures, but there are 2",
    ),
    "boxes for other rows": (
        {"text": ["a", "b"], "input_boxes": [[BOX]] * 3},
        ValueError,
        r"different numbers of rows: \{'text': 2, 'input_boxes': 3\}",
    ),
    "boxes nested for other rows": (
        {"images": "two", "text": [["a", "b"], ["c"]], "input_boxes": [[[BOX]], [[BOX]]]},
        ValueError,
        r"input_boxes has \[1, 1\] rows for the pictures; expected \[2, 1\]",
    ),
    "reversed box": (
        {"input_boxes": [[BOX, [80, 30, 40, 90]]]},
        ValueError,
        r"row 0, box 1: \[80, 30, 40, 90\] covers no area",
    ),
    "box of zero area": ({"input_boxes": [[[40, 30, 40, 90]]]}, ValueError, "row 0, box 0: .* covers no area"),
    "box outside": (
        {"input_boxes": [[[500, 30, 540, 90]]]},
        ValueError,
        r"row 0, box 0: \[500, 30, 540, 90\] lies outside .* 400 wide and 300 high",
    ),
    "box left of it": ({"input_boxes": [[[-50, 30, 0, 90]]]}, ValueError, "lies outside"),
    "box of NaN": (
        {"input_boxes": [[[40, float("nan"), 80, 90]]]},
        ValueError,
        r"row 0, box 0: \[40, nan, 80, 90\] holds NaN",
    ),
    "box of infinity": (
        {"input_boxes": np.array([[[40, 30, np.inf, 90]]])},
        ValueError,
        "row 0, box 0: .* holds NaN or infinity",
    ),
    "short box": ({"input_boxes": [[[40, 30, 80]]]}, ValueError, r"row 0, box 0: \[40, 30, 80\] is not 4 numbers"),
    "box with None": ({"input_boxes": [[[40, 30, 80, None]]]}, ValueError, "row 0, box 0: .* is not 4 numbers"),
    "flat box": (
        {"input_boxes": BOX},
        ValueError,
        r"input_boxes has 1 levels of nesting: \[40, 30, 80, 90\]; expected 3",
    ),
    "box without its row": ({"input_boxes": [BOX]}, ValueError, "input_boxes has 2 levels"),
    "box too deep": ({"input_boxes": [[[[BOX]]]]}, ValueError, "input_boxes has 5 levels"),
    "box of words": ({"input_boxes": [[["a", "b", "c", "d"]]]}, TypeError, r"input_boxes holds 'a' \(str\)"),
    "unknown label": (
        {"input_boxes": [[BOX]], "input_boxes_labels": [[2]]},
        ValueError,
        "input_boxes_labels, row 0, label 0: 2 is none of 1, 0, -10",
    ),
    "too many labels": (
        {"input_boxes": [[BOX]], "input_boxes_labels": [[1, 0]]},
        ValueError,
        "input_boxes_labels, row 0: 2 labels for 1 entries",
    ),
    "labels of no boxes": (
        {"images": "two", "text": "a", "input_boxes": [None, [BOX]], "input_boxes_labels": [[1], [1]]},
        ValueError,
        "input_boxes_labels, row 0: 1 labels for 0 entries",
    ),
    "labels too flat": (
        {"input_boxes": [[BOX]], "input_boxes_labels": [1]},
        ValueError,
        "input_boxes_labels has 1 levels",
    ),
    "labels alone": ({"text": "a", "input_boxes_labels": [[1]]}, ValueError, "input_boxes_labels without input_boxes"),
    "point outside": (
        {"input_points": [[[10, 10], [10, 301]]]},
        ValueError,
        r"input_points, row 0, point 1: \[10, 301\] lies outside the picture.* 300 high",
    ),
    "point of NaN": (
        {"input_points": [[[10, float("nan")]]]},
        ValueError,
        "input_points, row 0, point 0: .* holds NaN",
    ),
    "point of three": ({"input_points": [[[10, 10, 1]]]}, ValueError, "row 0, point 0: .* is not 2 numbers"),
    "point label": (
        {"input_points": [[[10, 10]]], "input_points_labels": [[-1]]},
        ValueError,
        "input_points_labels, row 0, label 0: -1 is none of",
    ),
    "bad kind": ({"input_points": [[[10, 10]]], "prompt_kind": "click"}, ValueError, "prompt_kind is 'click'"),
    "click labels on exemplars": (
        {"input_points": [[[10, 10]]], "input_labels": [[1]], "prompt_kind": "exemplars"},
        ValueError,
        "input_labels belong to clicks",
    ),
    "other tensors": ({"text": "cat", "return_tensors": "np"}, ValueError, "return_tensors is 'np'"),
    "bad sizes": (
        {"images": None, "text": "a", "original_sizes": [300, 400]},
        ValueError,
        r"original_sizes is \[300, 400\]",
    ),
    "text with clicks": ({"text": "cat", "input_points": [[[[10, 10]]]]}, ValueError, "text 'cat' with clicks"),
}


@pytest.mark.parametrize("arguments, error, message", BAD.values(), ids=BAD.keys())
def test_bad_prompts_are_named(processor, wide, tall, arguments, error, message):
    given = {"images": wide, **arguments}
    if given["images"] == "two":
        given["images"] = [wide, tall]
    with pytest.raises(error, match=message):
        processor(**given)


def test_clicks_are_scaled_to_the_model_and_padded(tracker, wide, tall):
    inputs = tracker(
        images=[wide, tall],
        input_points=[[[[200, 150]], [[100, 75], [0, 300]]], [[[50, 50]]]],
        input_labels=[[[1], [1, 0]], [[1]]],
        return_tensors="pt",
    )
    assert inputs["input_labels"].tolist() == [[[1, -10], [1, 0]], [[1, -10], [-10, -10]]]
    torch.testing.assert_close(inputs["input_points"][0, 1], torch.tensor([[25.0, 25.0], [0.0, 100.0]]))
    torch.testing.assert_close(inputs["input_points"][1, 0, 0], torch.tensor([50.0, 25.0]))
    assert (inputs["input_points"][inputs["input_labels"] == -10] == -10).all()
    assert inputs["original_sizes"].tolist() == [[300, 400], [200, 100]]
    assert "input_ids" not in inputs


def test_clicked_boxes_are_corners_in_model_pixels(tracker, wide):
    inputs = tracker(images=wide, input_boxes=[[[40, 30, 80, 90], [0, 0, 400, 300]]])
    torch.testing.assert_close(inputs["input_boxes"], torch.tensor([[[10.0, 10, 20, 30], [0, 0, 100, 100]]]))


def test_refinement_without_pictures(tracker, wide):
    first = tracker(images=wide, input_points=[[[[50, 37]]]], input_labels=[[[1]]])
    second = tracker(
        input_points=[[[[50, 37], [45, 30]]]], input_labels=[[[1, 1]]], original_sizes=first["original_sizes"]
    )
    assert set(second) == {"input_points", "input_labels", "original_sizes"}
    assert torch.equal(second["input_points"][:, :, :1], first["input_points"])


def test_clicks_without_labels_are_positive_and_minus_1_is_allowed(tracker, wide):
    assert tracker(images=wide, input_points=[[[[50, 37]]]])["input_labels"].tolist() == [[[1]]]
    assert tracker(images=wide, input_points=[[[[50, 37]]]], input_labels=[[[-1]]])["input_labels"].tolist() == [[[-1]]]


@pytest.mark.parametrize(
    "arguments, objects",
    [
        ({"input_points": [[[[5, 5]]]]}, True),
        ({"input_points": [[[[5, 5]]]], "input_labels": [[[1]]]}, True),
        ({"input_points": [[[5, 5]]]}, False),
        ({"input_boxes": [[BOX]]}, False),
        ({"input_boxes": [[BOX]], "prompt_kind": "objects"}, True),
        ({"input_points": [[[[5, 5]]]], "text": [["cat"]]}, False),
        ({"input_points": [[[[5, 5]]]], "prompt_kind": "exemplars"}, False),
        ({"input_points": [[[[5, 5]]]], "input_points_labels": [[[1]]]}, False),
    ],
)
def test_clicks_and_exemplars_are_told_apart(processor, wide, arguments, objects):
    assert ("input_ids" not in processor(images=wide, **arguments)) == objects


def test_the_trackers_boxes_can_be_exemplars_on_request(tracker, wide):
    assert "input_ids" in tracker(images=wide, input_boxes=[[BOX]], prompt_kind="exemplars")


BAD_CLICKS = {
    "points too flat": ({"input_points": [[[5, 5]]]}, "input_points has 3 levels of nesting"),
    "labels too flat": ({"input_points": [[[[5, 5]]]], "input_labels": [[1]]}, "input_labels has 2 levels of nesting"),
    "labels alone": ({"input_labels": [[[1]]]}, "input_labels without input_points"),
    "other pictures": ({"input_points": [[[[5, 5]]], [[[5, 5]]]]}, "input_points is for 2 pictures, but there are 1"),
    "label count": (
        {"input_points": [[[[5, 5]]]], "input_labels": [[[1, 1]]]},
        "picture 0, object 0: 2 labels for 1 entries",
    ),
    "label objects": (
        {"input_points": [[[[5, 5]]]], "input_labels": [[[1], [1]]]},
        "picture 0: 2 objects; input_points have 1",
    ),
    "label value": (
        {"input_points": [[[[5, 5]]]], "input_labels": [[[3]]]},
        "picture 0, object 0, label 0: 3 is none of",
    ),
    "point outside": (
        {"input_points": [[[[5, 5]], [[5, 500]]]]},
        r"picture 0, object 1, point 0: \[5, 500\] lies outside",
    ),
    "reversed box": ({"input_boxes": [[BOX, [80, 30, 40, 90]]]}, "input_boxes, picture 0, box 1: .* covers no area"),
    "boxes for points": (
        {"input_points": [[[[5, 5]]]], "input_boxes": [[BOX, BOX]]},
        r"\{'input_points': 1, 'input_boxes': 2\}",
    ),
    "text": ({"text": "cat", "input_boxes": [[BOX]]}, "text 'cat' with clicks"),
    "no picture": ({"images": None, "input_boxes": [[BOX]]}, "clicks need the picture's size"),
    "exemplar labels": (
        {"input_boxes": [[BOX]], "input_boxes_labels": [[1]], "prompt_kind": "objects"},
        "input_boxes_labels with clicks",
    ),
}


@pytest.mark.parametrize("arguments, message", BAD_CLICKS.values(), ids=BAD_CLICKS.keys())
def test_bad_clicks_are_named(tracker, wide, arguments, message):
    with pytest.raises(ValueError, match=message):
        tracker(**{"images": wide, **arguments})


def test_unequal_numbers_of_clicked_boxes_are_refused(tracker, wide):
    with pytest.raises(ValueError, match=r"input_boxes has \[2, 1\] boxes"):
        tracker(images=[wide, wide], input_boxes=[[BOX, BOX], [BOX]])
