"""How good is a model?  Concept F1, COCO AP and counting errors, of a model or of predictions made elsewhere."""

from .coco_ap import coco_ap
from .coco_format import (
    load_predictions,
    load_targets,
    pair_ids,
    predictions_to_coco,
    save_json,
    targets_to_coco,
)
from .concept_f1 import IOU_THRESHOLDS, PairScore, best_score, concept_f1, evaluate_concepts, score_pairs
from .counting import count_errors, count_objects, count_predictions
from .evaluator import ConceptMetrics, predictions_of_outputs
from .predictions import ConceptPrediction, ConceptTarget, target_of_example, target_of_label
from .runner import ExemplarChooser, Exemplars, add_correction, evaluate_model, predict_examples, true_boxes

__all__ = [
    "IOU_THRESHOLDS",
    "ConceptMetrics",
    "ConceptPrediction",
    "ConceptTarget",
    "ExemplarChooser",
    "Exemplars",
    "PairScore",
    "add_correction",
    "best_score",
    "coco_ap",
    "concept_f1",
    "count_errors",
    "count_objects",
    "count_predictions",
    "evaluate_concepts",
    "evaluate_model",
    "load_predictions",
    "load_targets",
    "pair_ids",
    "predict_examples",
    "predictions_of_outputs",
    "predictions_to_coco",
    "save_json",
    "score_pairs",
    "target_of_example",
    "target_of_label",
    "targets_to_coco",
    "true_boxes",
]
