"""The training loop written out, with accelerate: `accelerate launch examples/train_accelerate.py OUTPUT`."""

import contextlib
import itertools
import sys

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch.utils.data import DataLoader

from sam3_hf import Sam3Model, Sam3Processor, tiny_config
from sam3_hf.data import SceneDataset
from sam3_hf.evaluation import evaluate_model
from sam3_hf.losses import Normalizer
from sam3_hf.training import ConceptCollator, ConceptDataset, ConceptSampler, parameter_groups, set_epoch

output = sys.argv[1] if len(sys.argv) > 1 else "runs/accelerate"
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 200
ACCUMULATE = 2  # batches for each step

# Which parameters a batch uses depends on what is in it.
accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
torch.manual_seed(0)
config = tiny_config(image_size=112)
model = Sam3Model(config)
processor = Sam3Processor(size=config.image_size)
train = ConceptDataset(SceneDataset(2000, image_size=112), ConceptSampler(positives=3, random_negatives=1))
loader = DataLoader(train, batch_size=4, shuffle=True, collate_fn=ConceptCollator(processor))
optimizer = torch.optim.AdamW(parameter_groups(model, learning_rate=1e-3))
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)


def batches():
    """Batches without end; every epoch draws other phrases."""
    for epoch in itertools.count():
        set_epoch(loader, epoch)
        yield from loader


stream = batches()
model.train()
for step in range(1, steps + 1):
    parts = list(itertools.islice(stream, ACCUMULATE))
    # Losses are sums divided by the counts of the whole step, on all processes: then it does not matter how the step
    # is divided into batches. Gradients are averaged over processes, hence the factor.
    counts = sum((Normalizer.of(part["labels"]) for part in parts[1:]), start=Normalizer.of(parts[0]["labels"]))
    counts = counts.over_processes(accelerator.device)
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
            loss = model(**part, num_items_in_batch=counts).loss
            accelerator.backward(loss * accelerator.num_processes)
    accelerator.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    optimizer.zero_grad()
    if step % 10 == 0:
        accelerator.print(f"step {step}: loss of the last batch {loss.item():.2f}")

plain = accelerator.unwrap_model(model)
val = SceneDataset(20, split="val", image_size=112)
figures = evaluate_model(plain, processor, val, max_absent=5, progress=False, distributed=True)
accelerator.print(f"cgF1 {100 * figures['cgF1']:.1f}, IL_MCC {figures['IL_MCC']:.2f}")
if accelerator.is_main_process:
    plain.save_pretrained(output)
    processor.save_pretrained(output)
accelerator.end_training()
