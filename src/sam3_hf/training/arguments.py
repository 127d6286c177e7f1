"""Training arguments of transformers with the defaults that suit SAM 3, and a few of their own."""

import warnings
from dataclasses import dataclass, field, fields

import torch
from transformers import TrainingArguments

from ..modeling.layers import multiplies_fast
from .recipes import FREEZE

__all__ = ["Sam3TrainingArguments", "checkpointing_name"]


def checkpointing_name() -> str:
    """What this version of transformers calls the argument that trades time for memory (renamed in 5.2x)."""
    names = {entry.name for entry in fields(TrainingArguments)}
    return "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"


@dataclass
class Sam3TrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` for SAM 3; everything that is not named here is as there.

    The rates are those of the paper's fine-tuning (a tenth of its training: vision 5e-5, text 1e-5, rest 1e-4), with
    AdamW, weight decay 0.1, gradients clipped at 0.1 and the inverse square root schedule.

    Attributes:
        learning_rate: of everything but the towers.
        vision_lr_scale: the vision tower's rate is this times `learning_rate`.
        text_lr_scale: the text tower's rate is this times `learning_rate`.
        layer_decay: each vision layer learns at this times the rate of the layer above it; 1 switches it off.
        freeze: "none", "vision", "text" or "towers" (both): transformers that are not trained; see `recipes.freeze`.
        ema_decay: decay of a moving average of the weights, e.g. 0.999, which is then evaluated and saved; None: none.
        interactive_rounds: above 1, each batch is asked again with boxes that correct the last answer.
        eval_threshold: least score of an object that counts in evaluation.
    """

    vision_lr_scale: float = field(default=0.5, metadata={"help": "Vision tower's rate, relative to learning_rate."})
    text_lr_scale: float = field(default=0.1, metadata={"help": "Text tower's rate, relative to learning_rate."})
    layer_decay: float = field(default=0.9, metadata={"help": "Rate of a vision layer relative to the one above it."})
    freeze: str = field(default="none", metadata={"help": f"What is not trained: {', '.join(FREEZE)}."})
    ema_decay: float | None = field(default=None, metadata={"help": "Decay of the weights' average; unset: none."})
    interactive_rounds: int = field(default=1, metadata={"help": "Rounds of questions and corrections in each batch."})
    eval_threshold: float = field(default=0.5, metadata={"help": "Least score of an object in evaluation."})

    learning_rate: float = field(default=1e-4, metadata={"help": "Rate of everything but the towers."})
    weight_decay: float = 0.1
    max_grad_norm: float = 0.1
    lr_scheduler_type: str = "inverse_sqrt"
    warmup_steps: float = 0.05  # a share of all steps; also the schedule's time scale
    logging_steps: float = 10
    save_total_limit: int | None = 2
    # Pictures, phrases and labels are made into a batch by the collator: every column is needed.
    remove_unused_columns: bool = False
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    # Labels are ragged: batches of them cannot be joined.
    eval_do_concat_batches: bool = False
    # Which parameters a batch uses depends on what is in it: exemplar boxes, masks.
    ddp_find_unused_parameters: bool | None = True
    # `Sam3Trainer` stops when a loss is not finite; transformers would log an older one in its place.
    logging_nan_inf_filter: bool = False

    def __post_init__(self) -> None:
        self._check()
        super().__post_init__()
        self._warn_of_emulation()

    def _warn_of_emulation(self) -> None:
        for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            if getattr(self, name) and self.device.type == "cpu" and not multiplies_fast(dtype):
                warnings.warn(
                    f"{name} on a CPU that has no instructions for it, and emulates it several times slower than "
                    f"float32: leave {name} off here",
                    stacklevel=4,
                )

    def _check(self) -> None:
        if self.freeze not in FREEZE:
            raise ValueError(f"freeze must be one of {', '.join(FREEZE)}, got {self.freeze!r}")
        for name in ("vision_lr_scale", "text_lr_scale"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}; 1 means no decay")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, e.g. 0.999, got {self.ema_decay}; None means none")
        if self.interactive_rounds < 1:
            raise ValueError(f"interactive_rounds must be at least 1, got {self.interactive_rounds}")
        if not 0 <= self.eval_threshold < 1:
            raise ValueError(f"eval_threshold must lie in [0, 1), got {self.eval_threshold}")
