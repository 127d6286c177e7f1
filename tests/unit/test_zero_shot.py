"""Zero-shot detectors of transformers, asked like SAM 3: the same boxes and scores as through their own processors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from sam3_hf.data.examples import ConceptExample
from sam3_hf.evaluation.zero_shot import ZeroShotDetector
from tiny_detectors import save_grounding_dino, save_omdet_turbo, save_owlv2

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

SIZE = (48, 60)
PHRASES = ["red cat", "dog"]
SAVERS: dict[str, Callable[[Path], Path]] = {
    "owlv2": save_owlv2,
    "grounding-dino": save_grounding_dino,
    "omdet-turbo": save_omdet_turbo,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save(tmp_path_factory.mktemp(kind)) for kind, save in SAVERS.items()}


@pytest.fixture(scope="module")
def example() -> ConceptExample:
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    return ConceptExample(7, image, SIZE, np.zeros((0, 4)), [], dict.fromkeys(PHRASES, ()))


def ask(folder: Path, example: ConceptExample, **options: Any) -> dict[str, Any]:
    detector = ZeroShotDetector(folder, **{"min_score": 0.1, **options})
    return {one.phrase: one for one in detector.predict([example], lambda _: PHRASES)}


@pytest.mark.parametrize("kind", SAVERS)
def test_every_phrase_gets_boxes_and_no_masks(kind: str, folders: dict[str, Path], example: ConceptExample) -> None:
    found = ask(folders[kind], example, max_detections=3, min_score=0.0)
    assert list(found) == PHRASES
    for one in found.values():
        assert (one.image_id, one.size, one.masks) == (7, SIZE, None)
        assert 0 < len(one) <= 3 and (np.diff(one.scores) <= 0).all() and one.scores.min() > 0
    assert found["dog"].scores.tolist() != found["red cat"].scores.tolist()


def test_owl_is_its_own_processor_and_phrases_do_not_disturb_one_another(
    folders: dict[str, Path], example: ConceptExample
) -> None:
    folder = folders["owlv2"]
    processor = transformers.Owlv2Processor(
        transformers.Owlv2ImageProcessorPil.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    )
    model = transformers.Owlv2ForObjectDetection.from_pretrained(folder).eval()
    alone, together = ask(folder, example), ask(folder, example, phrases_at_once=2)
    for phrase in PHRASES:
        inputs = processor(text=[[phrase]], images=example.image, return_tensors="pt", max_length=16)
        with torch.no_grad():
            outputs = model(pixel_values=inputs["pixel_values"], input_ids=inputs["input_ids"],
                            attention_mask=inputs["attention_mask"])  # fmt: skip
        [expected] = processor.post_process_grounded_object_detection(outputs, 0.1, target_sizes=[SIZE])
        _same(alone[phrase], expected)
        _same(together[phrase], expected)


def test_grounding_dino_is_its_own_processor(folders: dict[str, Path], example: ConceptExample) -> None:
    folder = folders["grounding-dino"]
    processor = transformers.GroundingDinoProcessor(
        transformers.GroundingDinoImageProcessorPil.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    model = transformers.GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    found = ask(folder, example)
    for phrase in PHRASES:
        inputs = processor(images=example.image, text=[[phrase]], return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        [expected] = processor.post_process_grounded_object_detection(outputs, threshold=0.1, target_sizes=[SIZE])
        _same(found[phrase], expected)


def test_grounding_dino_gives_each_box_to_one_of_several_phrases(
    folders: dict[str, Path], example: ConceptExample
) -> None:
    together = ask(folders["grounding-dino"], example, phrases_at_once=2, min_score=0.0)
    boxes = np.concatenate([one.boxes for one in together.values()])
    assert len(boxes) == len(np.unique(boxes, axis=0)) == 8  # every query once
    detector = ZeroShotDetector(folders["grounding-dino"])
    ids = detector.tokenizer("red cat. dog.", return_tensors="pt")["input_ids"][0]
    assert detector._owners(ids).tolist() == [-1, *[0] * 7, -1, *[1] * 4, -1, -1]


def test_too_many_phrases_at_once_are_refused(folders: dict[str, Path], example: ConceptExample) -> None:
    detector = ZeroShotDetector(folders["grounding-dino"], phrases_at_once=12)
    phrases = [f"{letter} thing of some length" for letter in "abcdefghijkl"]
    with pytest.raises(ValueError, match=r"12 phrases are \d+ tokens, more than the model reads at once \(128\)"):
        list(detector.predict([example], lambda _: phrases))


def test_omdet_is_its_own_processor(folders: dict[str, Path], example: ConceptExample) -> None:
    pytest.importorskip("torchvision", reason="transformers' OmDet-Turbo processor needs torchvision; ours does not")
    folder = folders["omdet-turbo"]
    processor = transformers.OmDetTurboProcessor(
        transformers.AutoImageProcessor.from_pretrained(folder, backend="pil"),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    model = transformers.OmDetTurboForObjectDetection.from_pretrained(folder).eval()
    found = ask(folder, example, min_score=0.0)
    for phrase in PHRASES:
        inputs = processor(images=example.image, text=[phrase], return_tensors="pt")
        with torch.no_grad():
            outputs = model(**{name: value for name, value in inputs.items() if name != "pixel_mask"})
        [expected] = processor.post_process_grounded_object_detection(
            outputs, text_labels=[[phrase]], target_sizes=[SIZE], threshold=0.0, nms_threshold=0.5
        )
        _same(found[phrase], expected)


def test_omdet_suppresses_boxes_that_overlap_better_ones(folders: dict[str, Path]) -> None:
    detector = ZeroShotDetector(folders["omdet-turbo"], min_score=0.1)
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [30, 30, 70, 50]])
    scores, kept = detector._suppressed(torch.tensor([0.5, 0.9, 0.2]), boxes, SIZE)
    assert scores.tolist() == pytest.approx([0.9, 0.2])
    assert kept.tolist() == [[0, 0, 10, 9], [30, 30, 60, 48]]  # clipped to the picture


def test_other_models_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is a 'bert' model; expected one of owlvit, owlv2"):
        ZeroShotDetector(tmp_path)


def _same(found: Any, expected: Any) -> None:
    assert len(expected["scores"]), "nothing to compare"
    order = torch.argsort(expected["scores"], descending=True, stable=True)
    np.testing.assert_allclose(found.scores, expected["scores"][order].numpy(), atol=1e-6)
    np.testing.assert_allclose(found.boxes, expected["boxes"][order].numpy(), atol=1e-4)
