"""garments-tiny: CenterNet peaks say what is where, CondInst dynamic filters draw each peak's mask.

Zhou et al., "Objects as Points", 2019; Tian et al., "Conditional Convolutions for
Instance Segmentation", 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 6
INPUT_SIZE = 160
PEAK_STRIDE = 4  # heat map and filters: one cell per 4 input pixels
MASK_STRIDE = 2  # mask features and masks: one cell per 2 input pixels
MASK_FEATURES = 8
HIDDEN = 8
# Distances from the peak are fed to the filters in units of this many mask cells.
COORDINATE_SCALE = 32.0
FILTER_SIZES = (
    (MASK_FEATURES + 2) * HIDDEN, HIDDEN, HIDDEN * HIDDEN, HIDDEN, HIDDEN, 1,
)  # fmt: skip
PIXEL_MEAN = 127.5
PIXEL_SCALE = 64.0


def convolution(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def upsampled(features: Tensor) -> Tensor:
    return functional.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        return functional.relu(features + self.second(self.first(features)))


class GarmentNet(nn.Module):
    """(B, 3, S, S) scaled pixels → heat map logits (B, 6, S/4, S/4), filters (B, F, S/4, S/4) and mask
    features (B, 8, S/2, S/2).
    """

    def __init__(self, widths: tuple[int, int, int, int] = (24, 40, 72, 104), pyramid: int = 48) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth = widths
        self.stage1 = nn.Sequential(convolution(3, half, 3, 2), convolution(half, half))
        self.stage2 = nn.Sequential(convolution(half, quarter, 3, 2), Residual(quarter))
        self.stage3 = nn.Sequential(convolution(quarter, eighth, 3, 2), Residual(eighth))
        self.stage4 = nn.Sequential(convolution(eighth, sixteenth, 3, 2), Residual(sixteenth))
        self.context = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(sixteenth, pyramid, 1))
        self.lateral4 = nn.Conv2d(sixteenth, pyramid, 1)
        self.lateral3 = nn.Conv2d(eighth, pyramid, 1)
        self.lateral2 = nn.Conv2d(quarter, pyramid, 1)
        self.lateral1 = nn.Conv2d(half, pyramid // 2, 1)
        self.narrow = nn.Conv2d(pyramid, pyramid // 2, 1)
        self.smooth3 = convolution(pyramid, pyramid)
        self.smooth2 = convolution(pyramid, pyramid)
        self.features = nn.Sequential(
            convolution(pyramid // 2, pyramid // 2), nn.Conv2d(pyramid // 2, MASK_FEATURES, 1)
        )
        self.heat = nn.Sequential(convolution(pyramid, pyramid), nn.Conv2d(pyramid, CLASSES, 1))
        self.filters = nn.Sequential(convolution(pyramid, 64), nn.Conv2d(64, sum(FILTER_SIZES), 1))
        # Peaks are rare: start from a probability of about 3 %.
        nn.init.constant_(self.heat[-1].bias, -3.5)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        half = self.stage1(pixels)
        quarter = self.stage2(half)
        eighth = self.stage3(quarter)
        sixteenth = self.stage4(eighth)
        top = self.lateral4(sixteenth) + self.context(sixteenth)
        middle = self.smooth3(self.lateral3(eighth) + upsampled(top))
        bottom = self.smooth2(self.lateral2(quarter) + upsampled(middle))
        fine = self.lateral1(half) + upsampled(self.narrow(bottom))
        return self.heat(bottom), self.filters(bottom), self.features(fine)


def dynamic_masks(features: Tensor, filters: Tensor, peaks: Tensor) -> Tensor:
    """Mask logits (N, h, w) of features (N, 8, h, w), filters (N, F) and peaks (N, 2: x, y) in mask cells."""
    count, _, height, width = features.shape
    rows = torch.arange(height, dtype=features.dtype).view(1, 1, height, 1)
    columns = torch.arange(width, dtype=features.dtype).view(1, 1, 1, width)
    from_peak_x = ((columns - peaks[:, 0].view(-1, 1, 1, 1)) / COORDINATE_SCALE).expand(count, 1, height, width)
    from_peak_y = ((rows - peaks[:, 1].view(-1, 1, 1, 1)) / COORDINATE_SCALE).expand(count, 1, height, width)
    cells = torch.cat([features, from_peak_x, from_peak_y], 1).reshape(count, MASK_FEATURES + 2, height * width)
    weight1, bias1, weight2, bias2, weight3, bias3 = torch.split(filters, FILTER_SIZES, dim=1)
    hidden = torch.bmm(weight1.reshape(count, HIDDEN, MASK_FEATURES + 2), cells) + bias1.unsqueeze(2)
    hidden = functional.relu(hidden)
    hidden = functional.relu(torch.bmm(weight2.reshape(count, HIDDEN, HIDDEN), hidden) + bias2.unsqueeze(2))
    logits = torch.bmm(weight3.reshape(count, 1, HIDDEN), hidden) + bias3.unsqueeze(2)
    return logits.view(count, height, width)


def peak_to_mask_cells(peaks: Tensor) -> Tensor:
    """Centres of heat map cells, (N, 2: x, y), in mask cells."""
    ratio = PEAK_STRIDE / MASK_STRIDE
    return peaks * ratio + (ratio - 1) / 2


class Exported(nn.Module):
    """One image (1, 3, S, S) of 0…255 → scores (K,), classes (K,), masks (K, S/2, S/2) of K peaks."""

    def __init__(self, network: GarmentNet, peaks: int = 24) -> None:
        super().__init__()
        self.network = network
        self.peaks = peaks

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heat, filters, features = self.network((image - PIXEL_MEAN) / PIXEL_SCALE)
        _, _, height, width = heat.shape
        probability = torch.sigmoid(heat)
        highest = functional.max_pool2d(probability, 3, 1, 1)
        probability = probability * (probability == highest).to(probability.dtype)
        scores, index = torch.topk(probability.reshape(-1), self.peaks)
        classes = torch.div(index, height * width, rounding_mode="floor")
        cell = index - classes * height * width
        row = torch.div(cell, width, rounding_mode="floor")
        centres = peak_to_mask_cells(torch.stack([cell - row * width, row], 1).to(probability.dtype))
        chosen = filters.reshape(sum(FILTER_SIZES), height * width)[:, cell].t()
        shared = features.expand(self.peaks, -1, -1, -1)
        return scores, classes, torch.sigmoid(dynamic_masks(shared, chosen, centres))
