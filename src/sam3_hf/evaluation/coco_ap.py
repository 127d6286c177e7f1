"""COCO's average precision of masks and boxes, computed by `pycocotools`.

A phrase is a category, so AP is the mean over the phrases that occur, as in COCO.  Undefined figures (no object of that
size, say) are -1, as there.
"""

import contextlib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ..ops.masks import rle_decode
from .predictions import ConceptPrediction, ConceptTarget, PairKey, Rle

__all__ = ["coco_ap", "coco_evaluation"]

_NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100")
_KINDS = {"segm": "mask", "bbox": "box"}


def coco_ap(
    predictions: Mapping[PairKey, ConceptPrediction] | Sequence[ConceptPrediction],
    targets: Sequence[ConceptTarget],
    iou_type: str = "segm",
    per_phrase: bool = True,
) -> dict[str, float]:
    """`mask_AP`, `mask_AP50`, ... ("segm") or `box_AP`, ... ("bbox"), in 0..1 or -1 where undefined.

    `per_phrase=False` puts all phrases into one category and makes each picture-phrase pair a picture of its own: AP of
    all objects pooled, instead of the mean over phrases. Crowd regions are handled as COCO does.

    Raises ImportError, naming the extra to install, where pycocotools is missing.
    """
    evaluation = coco_evaluation(predictions, targets, iou_type, per_phrase)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return {f"{_KINDS[iou_type]}_{name}": float(value) for name, value in zip(_NAMES, evaluation.stats, strict=False)}


def coco_evaluation(
    predictions: Mapping[PairKey, ConceptPrediction] | Sequence[ConceptPrediction],
    targets: Sequence[ConceptTarget],
    iou_type: str = "segm",
    per_phrase: bool = True,
    *,
    forgiven: Collection[PairKey] = (),
    max_detections: int = 100,
) -> Any:
    """The accumulated `COCOeval` of predictions against targets; arguments as in `coco_ap`.

    Surplus answers of `forgiven` pairs are neither right nor wrong; of each pair the best `max_detections` are judged.
    """
    if iou_type not in _KINDS:
        raise ValueError(f"iou_type is {iou_type!r}; expected 'segm' (masks) or 'bbox' (boxes).")
    coco_class, eval_class = _pycocotools()
    if not isinstance(predictions, Mapping):
        predictions = {one.key: one for one in predictions}
    pictures = _numbers(target.image_id if per_phrase else target.key for target in targets)
    phrases = _numbers(target.phrase if per_phrase else "object" for target in targets)
    images: dict[int, dict[str, int]] = {}
    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    lenient_places = set()
    for target in targets:
        place = {
            "image_id": pictures[target.image_id if per_phrase else target.key],
            "category_id": phrases[target.phrase if per_phrase else "object"],
        }
        height, width = target.size
        images[place["image_id"]] = {"id": place["image_id"], "height": height, "width": width}
        truth += _annotations(target, iou_type, place, first_id=len(truth) + 1)
        if target.key in predictions:
            results += _results(predictions[target.key], iou_type, place)
        if target.key in forgiven:
            lenient_places.add((place["image_id"], place["category_id"]))
    # pycocotools reports its progress on standard output
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = coco_class()
        dataset.dataset = {
            "info": {},
            "images": list(images.values()),
            "categories": [{"id": number, "name": str(name)} for name, number in phrases.items()],
            "annotations": truth,
        }
        dataset.createIndex()
        evaluation = eval_class(dataset, _load_results(coco_class, dataset, results), iou_type)
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        for judged in evaluation.evalImgs:
            if judged is not None and (judged["image_id"], judged["category_id"]) in lenient_places:
                judged["dtIgnore"] = judged["dtIgnore"] | (judged["dtMatches"] == 0)
        evaluation.accumulate()
    return evaluation


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError("average precision needs pycocotools: pip install 'sam3-hf[evaluate]'") from error
    return COCO, COCOeval


def _numbers(names: Iterable[Any]) -> dict[Any, int]:
    """A number for each name, from 1, in order of appearance."""
    return {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}


def _annotations(target: ConceptTarget, iou_type: str, place: dict[str, int], first_id: int) -> list[dict[str, Any]]:
    annotations = []
    for index, crowd in enumerate(target.is_crowd):
        annotation: dict[str, Any] = {"id": first_id + index, "iscrowd": int(crowd), **place}
        annotation["bbox"] = _xywh(target.boxes[index])
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        if target.masks is not None:
            annotation["area"] = float(rle_decode(target.masks[index]).sum())
            annotation["segmentation"] = _bytes(target.masks[index])
        elif iou_type == "segm":
            raise ValueError(f"the target of {target.key} has no masks; compare boxes instead: iou_type='bbox'.")
        annotations.append(annotation)
    return annotations


def _results(prediction: ConceptPrediction, iou_type: str, place: dict[str, int]) -> list[dict[str, Any]]:
    if iou_type == "bbox":
        shapes: list[dict[str, Any]] = [{"bbox": _xywh(box)} for box in prediction.boxes]
    elif prediction.masks is None:
        raise ValueError(f"the prediction of {prediction.key} has no masks; compare boxes instead: iou_type='bbox'.")
    else:
        shapes = [{"segmentation": _bytes(mask)} for mask in prediction.masks]
    return [{**place, **shape, "score": float(score)} for shape, score in zip(shapes, prediction.scores, strict=True)]


def _load_results(coco_class: Any, dataset: Any, results: list[dict[str, Any]]) -> Any:
    if results:
        return dataset.loadRes(results)
    nothing = coco_class()  # loadRes cannot read an empty list
    nothing.dataset = {**dataset.dataset, "annotations": []}
    nothing.createIndex()
    return nothing


def _xywh(box_xyxy: Any) -> list[float]:
    x0, y0, x1, y1 = (float(value) for value in box_xyxy)
    return [x0, y0, x1 - x0, y1 - y0]


def _bytes(rle: Rle) -> Rle:
    return {"size": rle["size"], "counts": rle["counts"].encode("ascii")}
