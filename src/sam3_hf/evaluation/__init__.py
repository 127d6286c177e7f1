"""How good is a model?  Concept F1, COCO AP and counting errors, of a model or of predictions made elsewhere."""

from .agreement import human_agreement
from .annotations import AnnotatedPair, AnnotatedPairs, load_annotations
from .bootstrap import confidence_intervals
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
from .lvis_ap import lvis_ap
from .predictions import ConceptPrediction, ConceptTarget, target_of_example, target_of_label
from .results import Results, load_results
from .runner import ExemplarChooser, Exemplars, add_correction, evaluate_model, predict_examples, true_boxes
from .scoring import Scores, ScoreSettings, score_results

__all__ = [
    "IOU_THRESHOLDS",
    "AnnotatedPair",
    "AnnotatedPairs",
    "ConceptMetrics",
    "ConceptPrediction",
    "ConceptTarget",
    "ExemplarChooser",
    "Exemplars",
    "PairScore",
    "Results",
    "ScoreSettings",
    "Scores",
    "add_correction",
    "best_score",
    "coco_ap",
    "concept_f1",
    "confidence_intervals",
    "count_errors",
    "count_objects",
    "count_predictions",
    "evaluate_concepts",
    "evaluate_model",
    "human_agreement",
    "load_annotations",
    "load_predictions",
    "load_results",
    "load_targets",
    "lvis_ap",
    "pair_ids",
    "predict_examples",
    "predictions_of_outputs",
    "predictions_to_coco",
    "save_json",
    "score_pairs",
    "score_results",
    "target_of_example",
    "target_of_label",
    "targets_to_coco",
    "true_boxes",
]
