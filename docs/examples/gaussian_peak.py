"""`gaussian_peak` alone: the maximum of a smoothed map, whose gradient lifts the neighbourhood and not one pixel."""

import torch
from matplotlib.figure import Figure

from ebama.smoothing import gaussian_peak, gaussian_smooth
from ebama.weights import load

sd = load()
noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
records = sd.unet.attention(noise, 981, sd.encode_text(["a frog and a turtle"]))
maps = records.mean_probabilities()[0, :, :, [2, 5]].movedim(-1, 0).requires_grad_()  # frog and turtle: [2, 16, 16]
peaks = gaussian_peak(maps)  # [2]
(gradient,) = torch.autograd.grad(peaks.sum(), maps)

figure = Figure(figsize=(8.4, 5), layout="constrained")
axes = figure.subplots(2, 3)
panels = {"map": maps, "smoothed": gaussian_smooth(maps), "gradient of the peak": gradient}
for column, (title, panel) in zip(axes.T, panels.items(), strict=True):
    column[0].set_title(title)
    for axis, image in zip(column, panel.detach(), strict=True):
        figure.colorbar(axis.imshow(image, vmin=0, cmap="cividis"), ax=axis, shrink=0.8)
        axis.set(xticks=[], yticks=[])
for axis, word, peak in zip(axes[:, 0], ("frog", "turtle"), peaks, strict=True):
    axis.set_ylabel(f"{word}\npeak {peak:.3f}")
figure.savefig("gaussian_peak.png", dpi=70)
