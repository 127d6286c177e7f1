"""What transformers' pages on SAM 3 (pictures and videos) show runs here with only the imports changed.

Every test makes the calls of one block of those pages: same classes, same arguments, same outputs used. Only the model
is a tiny random one in a local directory and the pictures are drawn instead of downloaded. The block on automatic mask
generation is left out: that pipeline is not part of this package (docs/migration.md).
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image, ImageDraw

from sam3_hf import (
    Sam3Config,
    Sam3Model,
    Sam3Processor,
    Sam3TrackerModel,
    Sam3TrackerProcessor,
    Sam3TrackerVideoModel,
    Sam3TrackerVideoProcessor,
    Sam3VideoModel,
    Sam3VideoProcessor,
)
from sam3_hf.configuration import tiny_config

SIZE = 224


def _draw(width: int, height: int) -> Image.Image:
    """A picture of the size that the page's coordinates were written for."""
    image = Image.new("RGB", (width, height), (70, 110, 160))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width // 8, height // 8, width // 2, height // 2), fill=(220, 180, 60))
    draw.rectangle((width // 2, height // 2, width * 7 // 8, height * 7 // 8), fill=(150, 40, 40))
    return image


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory that stands for "facebook/sam3": a whole model with its processor."""
    directory = tmp_path_factory.mktemp("sam3")
    torch.manual_seed(0)
    Sam3Model(tiny_config(image_size=SIZE)).save_pretrained(directory)
    Sam3Processor(size={"height": SIZE, "width": SIZE}).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def model(checkpoint: str) -> Sam3Model:
    return Sam3Model.from_pretrained(checkpoint, device_map="auto")


@pytest.fixture(scope="module")
def processor(checkpoint: str) -> Sam3Processor:
    return Sam3Processor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def cats() -> Image.Image:
    return _draw(640, 480)


@pytest.fixture(scope="module")
def kitchen() -> Image.Image:
    return _draw(500, 375)


def _check_instances(results: list[dict[str, Any]], images: list[Image.Image]) -> None:
    """Each result has as many masks, boxes and scores as one another, and each mask the size of its picture."""
    assert len(results) == len(images)
    for result, image in zip(results, images, strict=True):
        found = len(result["masks"])
        assert result["masks"].shape == (found, image.height, image.width)
        assert result["boxes"].shape == (found, 4)
        assert result["scores"].shape == (found,)


def _check_everything(processor: Sam3Processor, outputs: Any, inputs: Any, images: list[Image.Image]) -> None:
    """The page's threshold of 0.5 may leave nothing of a random model; with none, every query is an object."""
    results = processor.post_process_instance_segmentation(
        outputs, threshold=0.0, target_sizes=inputs.get("original_sizes").tolist()
    )
    _check_instances(results, images)
    assert all(len(result["masks"]) == outputs.pred_masks.shape[1] for result in results)
    assert torch.isfinite(outputs.pred_masks).all()


# Page sam3: phrases and exemplars.


def test_text_only(checkpoint: str, cats: Image.Image) -> None:
    model = Sam3Model.from_pretrained(checkpoint, device_map="auto")
    processor = Sam3Processor.from_pretrained(checkpoint)
    inputs = processor(images=cats, text="ear", return_tensors="pt").to(model.device)
    with torch.no_grad():
        outputs = model(**inputs)
    results = processor.post_process_instance_segmentation(
        outputs, threshold=0.5, mask_threshold=0.5, target_sizes=inputs.get("original_sizes").tolist()
    )[0]
    _check_instances([results], [cats])
    _check_everything(processor, outputs, inputs, [cats])


def test_single_box(model: Sam3Model, processor: Sam3Processor, cats: Image.Image) -> None:
    box_xyxy = [100, 150, 500, 450]
    inputs = processor(images=cats, input_boxes=[[box_xyxy]], input_boxes_labels=[[1]], return_tensors="pt").to(
        model.device
    )
    with torch.no_grad():
        outputs = model(**inputs)
    results = processor.post_process_instance_segmentation(
        outputs, threshold=0.5, mask_threshold=0.5, target_sizes=inputs.get("original_sizes").tolist()
    )[0]
    _check_instances([results], [cats])
    _check_everything(processor, outputs, inputs, [cats])


def test_several_boxes(model: Sam3Model, processor: Sam3Processor, kitchen: Image.Image) -> None:
    input_boxes = [[[59, 144, 76, 163], [87, 148, 104, 159]]]
    outputs = []
    for input_boxes_labels in ([[1, 1]], [[1, 0]]):
        inputs = processor(
            images=kitchen, input_boxes=input_boxes, input_boxes_labels=input_boxes_labels, return_tensors="pt"
        ).to(model.device)
        with torch.no_grad():
            outputs.append(model(**inputs))
        _check_everything(processor, outputs[-1], inputs, [kitchen])
    assert not torch.equal(outputs[0].pred_logits, outputs[1].pred_logits), "a negative box must not act as a positive"


def test_text_and_negative_box(model: Sam3Model, processor: Sam3Processor, kitchen: Image.Image) -> None:
    inputs = processor(
        images=kitchen,
        text="handle",
        input_boxes=[[[40, 183, 318, 204]]],
        input_boxes_labels=[[0]],
        return_tensors="pt",
    ).to(model.device)
    with torch.no_grad():
        outputs = model(**inputs)
    results = processor.post_process_instance_segmentation(
        outputs, threshold=0.5, mask_threshold=0.5, target_sizes=inputs.get("original_sizes").tolist()
    )[0]
    _check_instances([results], [kitchen])
    _check_everything(processor, outputs, inputs, [kitchen])


def test_batched_text(model: Sam3Model, processor: Sam3Processor, cats: Image.Image, kitchen: Image.Image) -> None:
    images = [cats, kitchen]
    inputs = processor(images=images, text=["ear", "dial"], return_tensors="pt").to(model.device)
    with torch.no_grad():
        outputs = model(**inputs)
    results = processor.post_process_instance_segmentation(
        outputs, threshold=0.5, mask_threshold=0.5, target_sizes=inputs.get("original_sizes").tolist()
    )
    _check_instances(results, images)
    _check_everything(processor, outputs, inputs, images)


def test_batched_mixed_prompts(
    model: Sam3Model, processor: Sam3Processor, cats: Image.Image, kitchen: Image.Image
) -> None:
    images = [cats, kitchen]
    inputs = processor(
        images=images,
        text=["laptop", None],
        input_boxes=[None, [[59, 144, 76, 163]]],
        input_boxes_labels=[None, [1]],
        return_tensors="pt",
    ).to(model.device)
    with torch.no_grad():
        outputs = model(**inputs)
    results = processor.post_process_instance_segmentation(
        outputs, threshold=0.5, mask_threshold=0.5, target_sizes=inputs.get("original_sizes").tolist()
    )
    _check_instances(results, images)
    _check_everything(processor, outputs, inputs, images)
    # What stands beside a row in a batch must not change it.
    alone = processor(images=cats, text="laptop", return_tensors="pt").to(model.device)
    with torch.no_grad():
        torch.testing.assert_close(model(**alone).pred_masks[0], outputs.pred_masks[0], atol=1e-4, rtol=1e-4)


def test_semantic_output(model: Sam3Model, processor: Sam3Processor, cats: Image.Image) -> None:
    inputs = processor(images=cats, text="ear", return_tensors="pt").to(model.device)
    with torch.no_grad():
        outputs = model(**inputs)
    instance_masks = torch.sigmoid(outputs.pred_masks)
    semantic_seg = outputs.semantic_seg
    assert instance_masks.ndim == 4
    assert semantic_seg.shape == (1, 1, *instance_masks.shape[-2:])
    [semantic] = processor.post_process_semantic_segmentation(
        outputs, target_sizes=inputs.get("original_sizes").tolist()
    )
    assert semantic.shape == (cats.height, cats.width)


def test_many_phrases_on_precomputed_vision(model: Sam3Model, processor: Sam3Processor, cats: Image.Image) -> None:
    img_inputs = processor(images=cats, return_tensors="pt").to(model.device)
    with torch.no_grad():
        vision_embeds = model.get_vision_features(pixel_values=img_inputs.pixel_values)
    for prompt in ("ear", "eye", "nose"):
        text_inputs = processor(text=prompt, return_tensors="pt").to(model.device)
        with torch.no_grad():
            outputs = model(vision_embeds=vision_embeds, **text_inputs)
        results = processor.post_process_instance_segmentation(
            outputs, threshold=0.5, mask_threshold=0.5, target_sizes=img_inputs.get("original_sizes").tolist()
        )[0]
        _check_instances([results], [cats])
        whole = processor(images=cats, text=prompt, return_tensors="pt").to(model.device)
        with torch.no_grad():
            torch.testing.assert_close(model(**whole).pred_masks, outputs.pred_masks, atol=1e-4, rtol=1e-4)


def test_one_phrase_precomputed_on_many_pictures(
    model: Sam3Model, processor: Sam3Processor, cats: Image.Image, kitchen: Image.Image
) -> None:
    text_inputs = processor(text="ear", return_tensors="pt").to(model.device)
    with torch.no_grad():
        text_embeds = model.get_text_features(**text_inputs)
    for image in (cats, kitchen):
        img_inputs = processor(images=image, return_tensors="pt").to(model.device)
        with torch.no_grad():
            outputs = model(
                pixel_values=img_inputs.pixel_values,
                text_embeds=text_embeds,
                attention_mask=text_inputs.attention_mask,
            )
        results = processor.post_process_instance_segmentation(
            outputs, threshold=0.5, mask_threshold=0.5, target_sizes=img_inputs.get("original_sizes").tolist()
        )[0]
        _check_instances([results], [image])
        whole = processor(images=image, text="ear", return_tensors="pt").to(model.device)
        with torch.no_grad():
            torch.testing.assert_close(model(**whole).pred_masks, outputs.pred_masks, atol=1e-4, rtol=1e-4)


def test_custom_resolution(checkpoint: str, cats: Image.Image) -> None:
    config = Sam3Config.from_pretrained(checkpoint)
    config.image_size = 560
    model = Sam3Model.from_pretrained(checkpoint, config=config, device_map="auto")
    processor = Sam3Processor.from_pretrained(checkpoint, size={"height": 560, "width": 560})
    inputs = processor(images=cats, text="ear", return_tensors="pt").to(model.device)
    assert inputs.pixel_values.shape == (1, 3, 560, 560)
    with torch.no_grad():
        outputs = model(**inputs)
    _check_everything(processor, outputs, inputs, [cats])
    # Mask logits come at four times the 40x40 grid of patches.
    assert outputs.pred_masks.shape[-2:] == (160, 160)


def test_padding_label_changes_nothing(model: Sam3Model, processor: Sam3Processor, cats: Image.Image) -> None:
    box = [100, 150, 500, 450]
    rows: list[tuple[list[list[int]], list[int]]] = [([box], [1]), ([box, box], [1, -10])]
    logits = []
    for boxes, labels in rows:
        inputs = processor(images=cats, input_boxes=[boxes], input_boxes_labels=[labels], return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**inputs.to(model.device)).pred_logits)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)


# Page sam3_tracker: one mask for each clicked object.


@pytest.fixture(scope="module")
def device() -> torch.device:
    return Accelerator().device


@pytest.fixture(scope="module")
def tracker(checkpoint: str, device: torch.device) -> Sam3TrackerModel:
    return Sam3TrackerModel.from_pretrained(checkpoint).to(device)


@pytest.fixture(scope="module")
def click_processor(checkpoint: str) -> Sam3TrackerProcessor:
    return Sam3TrackerProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def truck() -> Image.Image:
    return _draw(2250, 1500)


@pytest.fixture(scope="module")
def dog() -> Image.Image:
    return _draw(1365, 1024)


@pytest.fixture(scope="module")
def groceries() -> Image.Image:
    return _draw(960, 640)


def _check_masks(all_masks: list[torch.Tensor], images: list[Image.Image], objects: int, masks: int) -> None:
    """One boolean tensor per picture, objects x masks x its height x its width."""
    assert len(all_masks) == len(images)
    for found, image in zip(all_masks, images, strict=True):
        assert found.shape == (objects, masks, image.height, image.width)
        assert found.dtype == torch.bool


def test_single_click(checkpoint: str, device: torch.device, truck: Image.Image) -> None:
    model = Sam3TrackerModel.from_pretrained(checkpoint).to(device)
    processor = Sam3TrackerProcessor.from_pretrained(checkpoint)
    inputs = processor(images=truck, input_points=[[[[500, 375]]]], input_labels=[[[1]]], return_tensors="pt").to(
        model.device
    )
    with torch.no_grad():
        outputs = model(**inputs)
    masks = processor.post_process_masks(outputs.pred_masks.cpu(), inputs["original_sizes"])[0]
    assert masks.shape == torch.Size([1, 3, 1500, 2250])
    assert outputs.iou_scores.shape == (1, 1, 3)


def test_several_clicks_on_one_object(
    tracker: Sam3TrackerModel, click_processor: Sam3TrackerProcessor, device: torch.device, truck: Image.Image
) -> None:
    inputs = click_processor(
        images=truck,
        input_points=[[[[500, 375], [1125, 625]]]],
        input_labels=[[[1, 1]]],
        return_tensors="pt",
    ).to(device)
    with torch.no_grad():
        outputs = tracker(**inputs)
    all_masks = click_processor.post_process_masks(outputs.pred_masks.cpu(), inputs["original_sizes"])
    _check_masks(all_masks, [truck], objects=1, masks=3)


def test_box_of_an_object(
    tracker: Sam3TrackerModel, click_processor: Sam3TrackerProcessor, device: torch.device, truck: Image.Image
) -> None:
    inputs = click_processor(images=truck, input_boxes=[[[75, 275, 1725, 850]]], return_tensors="pt").to(device)
    with torch.no_grad():
        outputs = tracker(**inputs)
    all_masks = click_processor.post_process_masks(outputs.pred_masks.cpu(), inputs["original_sizes"])
    _check_masks(all_masks, [truck], objects=1, masks=3)


def test_several_objects(tracker: Sam3TrackerModel, click_processor: Sam3TrackerProcessor, truck: Image.Image) -> None:
    inputs = click_processor(
        images=truck,
        input_points=[[[[500, 375]], [[650, 750]]]],
        input_labels=[[[1], [1]]],
        return_tensors="pt",
    ).to(tracker.device)
    with torch.no_grad():
        outputs = tracker(**inputs, multimask_output=False)
    all_masks = click_processor.post_process_masks(outputs.pred_masks.cpu(), inputs["original_sizes"])
    _check_masks(all_masks, [truck], objects=2, masks=1)


def test_batched_pictures(
    tracker: Sam3TrackerModel, click_processor: Sam3TrackerProcessor, truck: Image.Image, dog: Image.Image
) -> None:
    inputs = click_processor(
        images=[truck, dog],
        input_points=[[[[500, 375]]], [[[770, 200]]]],
        input_labels=[[[1]], [[1]]],
        return_tensors="pt",
    ).to(tracker.device)
    with torch.no_grad():
        outputs = tracker(**inputs, multimask_output=False)
    all_masks = click_processor.post_process_masks(outputs.pred_masks.cpu(), inputs["original_sizes"])
    _check_masks(all_masks, [truck, dog], objects=1, masks=1)


def test_batched_objects(
    tracker: Sam3TrackerModel,
    click_processor: Sam3TrackerProcessor,
    device: torch.device,
    truck: Image.Image,
    dog: Image.Image,
) -> None:
    inputs = click_processor(
        images=[truck, dog],
        input_points=[[[[500, 375]], [[650, 750]]], [[[770, 200]]]],
        input_labels=[[[1], [1]], [[1]]],
        return_tensors="pt",
    ).to(device)
    with torch.no_grad():
        outputs = tracker(**inputs, multimask_output=False)
    all_masks = click_processor.post_process_masks(outputs.pred_masks.cpu(), inputs["original_sizes"])
    # The dog's missing second object is padding: it gets a mask that means nothing, as in transformers.
    _check_masks(all_masks, [truck, dog], objects=2, masks=1)


def test_batched_objects_with_several_points(
    tracker: Sam3TrackerModel,
    click_processor: Sam3TrackerProcessor,
    device: torch.device,
    truck: Image.Image,
    groceries: Image.Image,
) -> None:
    inputs = click_processor(
        images=[truck, groceries],
        input_points=[[[[500, 375]], [[650, 750]]], [[[400, 300]], [[630, 300], [550, 300]]]],
        input_labels=[[[1], [1]], [[1], [1, 1]]],
        return_tensors="pt",
    ).to(device)
    with torch.no_grad():
        outputs = tracker(**inputs, multimask_output=False)
    all_masks = click_processor.post_process_masks(outputs.pred_masks.cpu(), inputs["original_sizes"])
    _check_masks(all_masks, [truck, groceries], objects=2, masks=1)
    alone = click_processor(
        images=groceries,
        input_points=[[[[400, 300]], [[630, 300], [550, 300]]]],
        input_labels=[[[1], [1, 1]]],
        return_tensors="pt",
    ).to(device)
    with torch.no_grad():
        expected = tracker(**alone, multimask_output=False).pred_masks[0]
    torch.testing.assert_close(outputs.pred_masks[1], expected, atol=1e-4, rtol=1e-4)


def test_batched_boxes(
    tracker: Sam3TrackerModel,
    click_processor: Sam3TrackerProcessor,
    device: torch.device,
    truck: Image.Image,
    groceries: Image.Image,
) -> None:
    input_boxes = [
        [[75, 275, 1725, 850], [425, 600, 700, 875], [1375, 550, 1650, 800], [1240, 675, 1400, 750]],
        [[450, 170, 520, 350], [350, 190, 450, 350], [500, 170, 580, 350], [580, 170, 640, 350]],
    ]
    inputs = click_processor(images=[truck, groceries], input_boxes=input_boxes, return_tensors="pt").to(device)
    with torch.no_grad():
        outputs = tracker(**inputs, multimask_output=False)
    all_masks = click_processor.post_process_masks(outputs.pred_masks.cpu(), inputs["original_sizes"])
    _check_masks(all_masks, [truck, groceries], objects=4, masks=1)


def test_refinement_with_a_previous_mask(
    tracker: Sam3TrackerModel, click_processor: Sam3TrackerProcessor, device: torch.device, truck: Image.Image
) -> None:
    inputs = click_processor(images=truck, input_points=[[[[500, 375]]]], input_labels=[[[1]]], return_tensors="pt").to(
        device
    )
    with torch.no_grad():
        outputs = tracker(**inputs)
    mask_input = outputs.pred_masks[:, :, torch.argmax(outputs.iou_scores.squeeze())]
    inputs = click_processor(
        input_points=[[[[500, 375], [450, 300]]]],
        input_labels=[[[1, 1]]],
        original_sizes=inputs["original_sizes"],
        return_tensors="pt",
    ).to(device)
    with torch.no_grad():
        refined = tracker(
            **inputs, input_masks=mask_input, image_embeddings=outputs.image_embeddings, multimask_output=False
        )
        without_mask = tracker(**inputs, image_embeddings=outputs.image_embeddings, multimask_output=False)
    assert refined.pred_masks.shape[:3] == (1, 1, 1)
    assert torch.isfinite(refined.pred_masks).all()
    assert not torch.equal(refined.pred_masks, without_mask.pred_masks), "the previous mask must have an effect"


def test_what_the_pages_load_is_a_directory_transformers_could_have_written(checkpoint: str) -> None:
    names = {path.name for path in Path(checkpoint).iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= names


# ---- pages sam3_video and sam3_tracker_video ----


@pytest.fixture(scope="module")
def video_frames() -> list[Image.Image]:
    """A clip in place of the page's download: a disc that moves over a picture of the page's size."""
    frames = []
    for t in range(12):
        frame = _draw(854, 480)
        ImageDraw.Draw(frame).ellipse((100 + 20 * t, 250, 300 + 20 * t, 450), fill=(240, 240, 240))
        frames.append(frame)
    return frames


def test_video_page_pre_loaded(checkpoint: str, video_frames: list[Image.Image]) -> None:
    device = Accelerator().device
    model = Sam3VideoModel.from_pretrained(checkpoint).to(device)
    processor = Sam3VideoProcessor.from_pretrained(checkpoint)
    inference_session = processor.init_video_session(
        video=video_frames,
        inference_device=device,
        processing_device="cpu",
        video_storage_device="cpu",
    )
    inference_session = processor.add_text_prompt(inference_session=inference_session, text="person")
    outputs_per_frame = {}
    for model_outputs in model.propagate_in_video_iterator(
        inference_session=inference_session, max_frame_num_to_track=5
    ):
        processed_outputs = processor.postprocess_outputs(inference_session, model_outputs)
        outputs_per_frame[model_outputs.frame_idx] = processed_outputs
    assert len(outputs_per_frame) == 6
    frame_0_outputs = outputs_per_frame[0]
    count = len(frame_0_outputs["object_ids"])
    assert len(frame_0_outputs["object_ids"].tolist()) == len(frame_0_outputs["scores"].tolist()) == count
    assert frame_0_outputs["boxes"].shape == (count, 4)
    assert frame_0_outputs["masks"].shape == (count, 480, 854)

    multi_prompt_session = processor.init_video_session(
        video=video_frames,
        inference_device=device,
        processing_device="cpu",
        video_storage_device="cpu",
    )
    processor.add_text_prompt(multi_prompt_session, ["person", "bed", "lamp"])
    for model_outputs in model.propagate_in_video_iterator(
        inference_session=multi_prompt_session, max_frame_num_to_track=3
    ):
        processed_outputs = processor.postprocess_outputs(multi_prompt_session, model_outputs)
        assert set(processed_outputs["prompt_to_obj_ids"]) <= {"person", "bed", "lamp"}


def test_video_page_streaming(checkpoint: str, video_frames: list[Image.Image]) -> None:
    device = Accelerator().device
    model = Sam3VideoModel.from_pretrained(checkpoint).to(device)
    processor = Sam3VideoProcessor.from_pretrained(checkpoint)
    streaming_inference_session = processor.init_video_session(
        inference_device=device,
        processing_device="cpu",
        video_storage_device="cpu",
    )
    streaming_inference_session = processor.add_text_prompt(
        inference_session=streaming_inference_session,
        text="person",
    )
    streaming_outputs_per_frame = {}
    for frame_idx, frame in enumerate(video_frames[:5]):
        inputs = processor(images=frame, device=device, return_tensors="pt")
        model_outputs = model(
            inference_session=streaming_inference_session,
            frame=inputs.pixel_values[0],
            reverse=False,
        )
        processed_outputs = processor.postprocess_outputs(
            streaming_inference_session,
            model_outputs,
            original_sizes=inputs.original_sizes,
        )
        streaming_outputs_per_frame[frame_idx] = processed_outputs
    assert len(streaming_outputs_per_frame) == 5
    assert streaming_outputs_per_frame[0]["masks"].shape[1:] == (480, 854)


def test_tracker_video_page(checkpoint: str, video_frames: list[Image.Image]) -> None:
    device = "cpu"
    model = Sam3TrackerVideoModel.from_pretrained(checkpoint, device_map="auto")
    processor = Sam3TrackerVideoProcessor.from_pretrained(checkpoint)
    inference_session = processor.init_video_session(video=video_frames, inference_device=device)
    processor.add_inputs_to_inference_session(
        inference_session=inference_session,
        frame_idx=0,
        obj_ids=1,
        input_points=[[[[210, 350]]]],
        input_labels=[[[1]]],
    )
    outputs = model(inference_session=inference_session, frame_idx=0)
    size = [[inference_session.video_height, inference_session.video_width]]
    video_res_masks = processor.post_process_masks([outputs.pred_masks], original_sizes=size, binarize=False)[0]
    assert video_res_masks.shape == (1, 1, 480, 854)
    video_segments: dict[int, Any] = {}
    for output in model.propagate_in_video_iterator(inference_session):
        video_res_masks = processor.post_process_masks([output.pred_masks], original_sizes=size, binarize=False)[0]
        video_segments[output.frame_idx] = video_res_masks
    assert len(video_segments) == 12

    inference_session.reset_inference_session()
    processor.add_inputs_to_inference_session(
        inference_session=inference_session,
        frame_idx=0,
        obj_ids=[2, 3],
        input_points=[[[[200, 300], [230, 250], [275, 175]], [[400, 150]]]],
        input_labels=[[[1, 1, 0], [1]]],
    )
    assert model(inference_session=inference_session, frame_idx=0).pred_masks.shape[0] == 2
    for output in model.propagate_in_video_iterator(inference_session):
        video_segments[output.frame_idx] = {
            obj_id: output.pred_masks[i] for i, obj_id in enumerate(inference_session.obj_ids)
        }
    assert [len(found) for found in video_segments.values()] == [2] * 12

    processor.add_inputs_to_inference_session(
        inference_session=inference_session,
        frame_idx=5,
        obj_ids=2,
        input_points=[[[[220, 280]]]],
        input_labels=[[[1]]],
    )
    refined = [output.frame_idx for output in model.propagate_in_video_iterator(inference_session)]
    assert refined == list(range(12))


def test_tracker_video_page_streaming(checkpoint: str, video_frames: list[Image.Image]) -> None:
    device = "cpu"
    model = Sam3TrackerVideoModel.from_pretrained(checkpoint, device_map="auto")
    processor = Sam3TrackerVideoProcessor.from_pretrained(checkpoint)
    inference_session = processor.init_video_session(inference_device=device)
    for frame_idx, frame in enumerate(video_frames[:4]):
        inputs = processor(images=frame, device=device, return_tensors="pt").to(model.device)
        if frame_idx == 0:
            processor.add_inputs_to_inference_session(
                inference_session=inference_session,
                frame_idx=0,
                obj_ids=1,
                input_points=[[[[210, 350], [250, 220]]]],
                input_labels=[[[1, 1]]],
                original_size=inputs.original_sizes[0],
            )
        output = model(inference_session=inference_session, frame=inputs.pixel_values[0])
        video_res_masks = processor.post_process_masks(
            [output.pred_masks], original_sizes=inputs.original_sizes, binarize=False
        )[0]
        assert (output.frame_idx, video_res_masks.shape) == (frame_idx, (1, 1, 480, 854))
