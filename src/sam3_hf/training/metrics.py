"""Concept metrics for the plain `Trainer`; `Sam3Trainer` has them built in, without a second pass."""

from typing import Any

from torch import nn
from transformers import TrainerCallback

from ..evaluation import evaluate_model
from ..processing import Sam3Processor

__all__ = ["EvaluateConcepts"]


class EvaluateConcepts(TrainerCallback):
    """Adds concept metrics (`eval_cgF1`, ...) to every evaluation of a `transformers.Trainer`.

    `compute_metrics` cannot give them: Trainer pads and gathers labels as tensors, and ours are ragged and name their
    pictures and phrases. The metrics come after the loss is logged; they are in what `evaluate` returns, in the
    trainer's history, and may be `metric_for_best_model`. Set `label_names=["labels"]` to have the loss too.

    Args:
        examples: `ConceptExample`s, as for `evaluate_model`.
        processor: prepares them.
        options: arguments of `evaluate_model`, such as `max_absent`.
    """

    def __init__(self, examples: Any, processor: Sam3Processor, **options: Any) -> None:
        self.examples, self.processor = examples, processor
        self.options: dict[str, Any] = {"progress": False, "distributed": True, **options}

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], model: nn.Module, **_: Any
    ) -> None:
        figures = evaluate_model(model, self.processor, self.examples, **self.options)
        named = {f"eval_{name}": value for name, value in figures.items()}
        metrics.update(named)
        if state.log_history:
            state.log_history[-1].update(named)
