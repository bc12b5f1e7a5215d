"""Train garments-tiny on drawn scenes; seeded, CPU only (README.md says how to run it)."""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.garments.network import GarmentNet, dynamic_masks, peak_to_mask_cells
from training.garments.samples import Batch, draw_all, make_batch

PEAK_LEARNING_RATE = 3e-3
AVERAGE_DECAY = 0.995


def heat_loss(logits: Tensor, target: Tensor) -> Tensor:
    """CenterNet's penalty-reduced focal loss, per true peak."""
    probability = torch.sigmoid(logits).clamp(1e-4, 1 - 1e-4)
    peak = (target > 0.999).float()
    found = peak * (1 - probability) ** 2 * torch.log(probability)
    quiet = (1 - peak) * (1 - target) ** 4 * probability**2 * torch.log(1 - probability)
    return -(found + quiet).sum() / peak.sum().clamp(min=1)


def mask_losses(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Dice loss and binary cross-entropy of (N, h, w) masks."""
    probability = torch.sigmoid(logits)
    overlap = (probability * target).sum((1, 2))
    sizes = (probability**2).sum((1, 2)) + (target**2).sum((1, 2))
    dice = 1 - (2 * overlap + 1) / (sizes + 1)
    return dice.mean(), functional.binary_cross_entropy_with_logits(logits, target)


def losses(network: GarmentNet, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        heat, filters, features = network(batch.pixels)
    image, x, y = batch.peaks.T
    centres = peak_to_mask_cells(torch.stack([x, y], 1).float())
    features_of_each = torch.index_select(features.float(), 0, image)
    masks = dynamic_masks(features_of_each, filters.float()[image, :, y, x], centres)
    return heat_loss(heat.float(), batch.heat), *mask_losses(masks, batch.masks)


def update_average(average: GarmentNet, network: GarmentNet, step: int) -> None:
    """Exponential average of weights and statistics; it follows faster in the first steps."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    with torch.no_grad():
        for kept, current in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if kept.dtype.is_floating_point:
                kept.lerp_(current, 1 - decay)


def train(arguments: argparse.Namespace) -> GarmentNet:
    """The averaged network after `--steps` steps on scenes 0 … `--scenes`."""
    torch.manual_seed(arguments.seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    scenes = [s for s in draw_all(range(arguments.scenes), arguments.threads) if s.instances]
    print(f"{len(scenes)} scenes drawn in {time.monotonic() - started:.0f} s", flush=True)
    network = GarmentNet().to(memory_format=torch.channels_last)
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_LEARNING_RATE, total_steps=arguments.steps, pct_start=0.15
    )
    rng = np.random.default_rng(arguments.seed)
    recent: list[tuple[float, float, float]] = []
    for step in range(1, arguments.steps + 1):
        heat, dice, entropy = losses(network, make_batch(scenes, arguments.batch, rng))
        optimizer.zero_grad(set_to_none=True)
        (heat + 2 * dice + entropy).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        update_average(average, network, step)
        recent.append((heat.item(), dice.item(), entropy.item()))
        if step % 50 == 0:
            values = " ".join(f"{value:.3f}" for value in np.mean(recent[-50:], axis=0))
            print(f"step {step}: heat dice entropy {values}, {time.monotonic() - started:.0f} s", flush=True)
            torch.save(average.state_dict(), arguments.out)
    return average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("garments-tiny.pt"))
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.save(train(arguments).state_dict(), arguments.out)


if __name__ == "__main__":
    main()
