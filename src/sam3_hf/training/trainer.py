"""`Sam3Trainer`: transformers' `Trainer` with one normaliser, concept metrics, rates by part, average weights."""

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..evaluation import ConceptMetrics
from ..losses import Normalizer
from .arguments import Sam3TrainingArguments
from .collator import ConceptCollator
from .ema import ExponentialMovingAverage
from .epochs import set_epoch
from .evaluation_collator import EvaluationCollator, add_to_metrics
from .interactive import interactive_loss
from .recipes import freeze, parameter_groups
from .saving import (
    STAGING,
    fill_optimizer_state,
    load_mined,
    num_updates,
    publish,
    read_average,
    save_average_state,
    save_mined,
    take_training_weights,
)
from .term_log import TermLog

__all__ = ["Sam3Trainer"]


class Sam3Trainer(Trainer):
    """`transformers.Trainer` for `Sam3Detector` and `Sam3Model`, which also train with the plain one.

    What it adds:
    - one normaliser for all micro-batches and processes of a step, so that the gradients do not depend on how a batch
      is divided (the plain one takes the mean of the micro-batches' losses);
    - every term of the loss in the logs;
    - `evaluate` gives concept metrics (`eval_cgF1`, `eval_pmF1`, `eval_IL_MCC`, ...), computed as batches go by: no
      masks are gathered;
    - rates by part and layer, frozen towers (`Sam3TrainingArguments`), an average of the weights (`ema_decay`) that is
      evaluated and saved as the model, while training goes on with the weights themselves;
    - checkpoints that appear only when they are whole, and resumed runs that go on as if never stopped.

    Example:
        >>> arguments = Sam3TrainingArguments(output_dir="run", num_train_epochs=20)
        >>> trainer = Sam3Trainer(model, arguments, train_dataset=train, eval_dataset=val, data_collator=collator,
        ...                       processing_class=processor)
        >>> trainer.train()
    """

    args: Sam3TrainingArguments
    data_collator: Any
    optimizer: Any

    def __init__(
        self,
        model: Any = None,
        args: Sam3TrainingArguments | None = None,
        *,
        eval_data_collator: Any = None,
        **kwargs: Any,
    ) -> None:
        args = Sam3TrainingArguments() if args is None else args
        if not isinstance(args, Sam3TrainingArguments):
            raise TypeError(
                f"Sam3Trainer takes Sam3TrainingArguments, got {type(args).__name__}; transformers.Trainer takes those"
            )
        if args.n_gpu > 1:
            # torch.nn.DataParallel would cut the ragged labels apart.
            args._n_gpu = 1
        self._frozen = freeze(model, args.freeze) if model is not None else []
        self._ema: ExponentialMovingAverage | None = None
        self._resumed_average: tuple[dict[str, Tensor], int] | None = None
        self._metrics: ConceptMetrics | None = None
        self._is_staging = False
        super().__init__(model=model, args=args, **kwargs)
        if eval_data_collator is None and type(self.data_collator) is ConceptCollator:
            eval_data_collator = EvaluationCollator(self.data_collator.processor, self.data_collator.mask_size)
        self.eval_data_collator = eval_data_collator
        self._terms = TermLog()
        self.add_callback(_Hooks(self))

    # ---- loss ----

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step, and what their losses are divided by: the counts of all, on all processes."""
        if self.control.should_training_stop:  # before the first step: see `_Hooks`
            return [], None
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches or batches[0].get("labels") is None:
            return batches, num_items
        first, *others = (Normalizer.of(batch["labels"]) for batch in batches)
        total = sum(others, start=first)
        # `compute_loss` of transformers multiplies by the number of processes under the same condition.
        return batches, total.over_processes(device) if self.args.average_tokens_across_devices else total

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a micro-batch (and the outputs); notes its terms for the next log."""
        is_clips = inputs.get("clip_masks") is not None
        if inputs.get("labels") is None and not is_clips:
            raise ValueError(
                f"the batch has no labels, only {', '.join(inputs)}; use the collator that makes them, and keep "
                "remove_unused_columns=False"
            )
        if model.training:
            for module in self._frozen:  # `Trainer` has just set everything to training mode
                module.eval()
        is_interactive = model.training and self.args.interactive_rounds > 1 and not is_clips
        asked = self._interactive(model) if is_interactive else model
        loss, outputs = super().compute_loss(asked, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            self._terms.add(outputs.loss_dict, self._share_of_step(num_items_in_batch))
        return (loss, outputs) if return_outputs else loss

    def _interactive(self, model: nn.Module) -> Any:
        """What answers a batch as the model does, in several rounds; the same chance on every run and process."""
        generator = torch.Generator().manual_seed(self.args.seed + self.state.global_step)
        return lambda **batch: interactive_loss(model, batch, self.args.interactive_rounds, generator=generator)

    def _share_of_step(self, num_items_in_batch: Any) -> float:
        """Factor of a micro-batch's terms that makes their sum over a step its loss, in the mean over processes."""
        if num_items_in_batch is None:
            return 1 / self.current_gradient_accumulation_steps
        return float(self.accelerator.num_processes) if self.args.average_tokens_across_devices else 1.0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs; a training step's logs also name the terms of the loss."""
        if "loss" in logs:
            logs |= self._terms.take(self.state.global_step, self.accelerator)
            _check_finite(logs["loss"], self.state.global_step)
        super().log(logs, start_time)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer, with the rates and decays of `recipes.parameter_groups`."""
        if self.optimizer is None:
            model, args = self.model if model is None else model, self.args
            optimizer, arguments = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(args, model)
            if {"params", "model", "optimizer_dict"} & arguments.keys():
                raise ValueError(f"optim={args.optim!r} groups parameters by itself, which Sam3Trainer cannot use")
            groups = parameter_groups(
                model,
                args.learning_rate,
                args.weight_decay,
                args.vision_lr_scale,
                args.text_lr_scale,
                args.layer_decay,
            )
            self.optimizer = optimizer(groups, **arguments)
        return self.optimizer

    # ---- evaluation ----

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Batches of `eval_data_collator` where there is one (see `EvaluationCollator`)."""
        with self._evaluation_collator():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """As `get_eval_dataloader`, for `predict`."""
        with self._evaluation_collator():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _evaluation_collator(self) -> Iterator[None]:
        kept = self.data_collator
        self.data_collator = self.eval_data_collator or kept
        try:
            yield
        finally:
            self.data_collator = kept

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Loss and concept metrics over all processes; with `compute_metrics` given, what `Trainer` does instead."""
        if self.compute_metrics is not None:
            return super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        self._metrics = ConceptMetrics(threshold=self.args.eval_threshold)
        try:
            with self._averaged():
                output = super().evaluation_loop(dataloader, description, True, ignore_keys, metric_key_prefix)
            self._metrics.gather()
            found = self._metrics.compute() if len(self._metrics) else {}  # clips are judged by their loss
        finally:
            self._metrics = None
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """The loss of a batch, whose answers go into the metrics of this process: (loss, None, None)."""
        if self._metrics is None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if inputs.get("labels") is not None:
            add_to_metrics(self._metrics, outputs, inputs["labels"])
        return loss.detach(), None, None

    # ---- average weights ----

    def _averaged(self) -> AbstractContextManager[None]:
        """Within it the model has the average's weights, where there is one."""
        return nullcontext() if self._ema is None else self._ema.applied(self.model)

    def _begin_average(self) -> None:
        if self.args.ema_decay is None:
            return
        self._ema = ExponentialMovingAverage(self.model, self.args.ema_decay)
        if self._resumed_average is not None:
            self._ema.load(*self._resumed_average)
            self._resumed_average = None

    def _end_average(self) -> None:
        """Leaves the average in the model, unless the best checkpoint, which is an average too, was loaded into it."""
        if self._ema is not None and not (self.args.load_best_model_at_end and self.state.best_model_checkpoint):
            self._ema.copy_to(self.model)
        self._ema = None

    # ---- checkpoints ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model (the average of its weights, where there is one) for `from_pretrained`."""
        with self._averaged():
            super().save_model(output_dir, _internal_call)
            if self.is_fsdp_enabled and "FULL" not in str(self.accelerator.state.fsdp_plugin.state_dict_type):
                # `Trainer` would leave the shards alone, which nothing else opens.
                self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))

    def _get_output_dir(self, trial: Any) -> str:
        directory = super()._get_output_dir(trial)
        return os.path.join(directory, STAGING) if self._is_staging else directory

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves a checkpoint aside and then renames it: a run that is killed meanwhile leaves the older ones whole."""
        _check_finite(self.accelerator.reduce(self._tr_loss.detach().clone()).item(), self.state.global_step)
        run = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staged, final = run / STAGING / name, run / name
        if self.args.should_save:
            shutil.rmtree(staged.parent, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._is_staging = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._is_staging = False
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(final)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
            if self._ema is not None:
                save_average_state(self.model, self._ema.num_updates, staged, self.is_fsdp_enabled)
            save_mined(self.train_dataset, staged)
            publish(staged, final)
            staged.parent.rmdir()
            rotate_checkpoints(
                str(run),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )
        self.accelerator.wait_for_everyone()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled:
            fill_optimizer_state(self.optimizer.optimizer)
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        directory, model = Path(resume_from_checkpoint), self.model if model is None else model
        load_mined(self.train_dataset, directory, is_writer=self.args.should_save)
        updates = num_updates(directory)
        if updates is not None:
            average = (read_average if self.is_fsdp_enabled else take_training_weights)(model, directory)
            self._resumed_average = average, updates

    def _load_best_model(self) -> None:
        super()._load_best_model()
        best = Path(self.state.best_model_checkpoint)
        if self._ema is not None and self.is_fsdp_enabled and num_updates(best) is not None:
            # accelerate has loaded the weights that training would go on with
            self._ema.load(read_average(self.model, best), 0)
            self._ema.copy_to(self.model)


class _Hooks(TrainerCallback):
    """What `Sam3Trainer` does at moments of training for which `Trainer` has no method to override."""

    def __init__(self, trainer: Sam3Trainer) -> None:
        self.trainer = trainer
        self._began_over = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer._terms.begin(state.global_step)
        self.trainer._begin_average()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        set_epoch(train_dataloader, int((state.epoch or 0.0) + 1e-6))
        self._began_over = state.global_step >= state.max_steps
        if self._began_over:  # a run resumed after its last step, of which `Trainer` alone would take one more
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._began_over:  # the checkpoint it was resumed from holds all that could be logged or saved
            control.should_log = control.should_evaluate = control.should_save = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer._ema is not None:
            self.trainer._ema.update(self.trainer.model)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer._end_average()


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} by step {step}; training stops before it is saved. Go on from the last checkpoint "
            "with a lower learning_rate, or with bf16 instead of fp16"
        )
