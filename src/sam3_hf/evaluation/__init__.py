"""How good is a model?  Concept F1, COCO AP and counting errors, of a model or of predictions made elsewhere.

And for videos: concept F1 of tracks, HOTA, TETA, average precision, J and F.
"""

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
from .hota import hota
from .j_and_f import davis_folder, j_and_f
from .lvis_ap import lvis_ap
from .predictions import ConceptPrediction, ConceptTarget, target_of_example, target_of_label
from .results import Results, load_results
from .runner import (
    Asking,
    ExemplarChooser,
    Exemplars,
    add_correction,
    evaluate_model,
    predict_examples,
    predict_rounds,
    true_boxes,
)
from .scoring import Scores, ScoreSettings, score_results
from .survival import identity_survival
from .teta import teta
from .veval import score_veval, veval_results
from .video_ap import video_ap
from .video_f1 import video_f1
from .video_format import (
    VideoTargets,
    load_video_predictions,
    load_video_targets,
    video_pairs,
    video_results,
)
from .video_runner import evaluate_masklets, evaluate_video_model
from .video_tracks import Track, VideoPair

__all__ = [
    "IOU_THRESHOLDS",
    "AnnotatedPair",
    "AnnotatedPairs",
    "Asking",
    "ConceptMetrics",
    "ConceptPrediction",
    "ConceptTarget",
    "ExemplarChooser",
    "Exemplars",
    "PairScore",
    "Results",
    "ScoreSettings",
    "Scores",
    "Track",
    "VideoPair",
    "VideoTargets",
    "add_correction",
    "best_score",
    "coco_ap",
    "concept_f1",
    "confidence_intervals",
    "count_errors",
    "count_objects",
    "count_predictions",
    "davis_folder",
    "evaluate_concepts",
    "evaluate_masklets",
    "evaluate_model",
    "evaluate_video_model",
    "hota",
    "human_agreement",
    "identity_survival",
    "j_and_f",
    "load_annotations",
    "load_predictions",
    "load_results",
    "load_targets",
    "load_video_predictions",
    "load_video_targets",
    "lvis_ap",
    "pair_ids",
    "predict_examples",
    "predict_rounds",
    "predictions_of_outputs",
    "predictions_to_coco",
    "save_json",
    "score_pairs",
    "score_results",
    "score_veval",
    "target_of_example",
    "target_of_label",
    "targets_to_coco",
    "teta",
    "true_boxes",
    "veval_results",
    "video_ap",
    "video_f1",
    "video_pairs",
    "video_results",
]
