"""Where a picture listens to each of its words: the attention maps of a generation, taken by word."""

import sys

from matplotlib.figure import Figure

from ebama import Pipeline
from ebama.trace import TraceOptions
from ebama.weights import load

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 50
pipeline = Pipeline(load())  # the embedded miniature
result = pipeline("a cat and a red car", seeds=[1], steps=steps, trace=TraceOptions(latents=True))
trace, words = result.trace, ["cat", "red", "car"]
calls = [round(part * (len(trace.timesteps) - 1)) for part in (0, 0.1, 0.2, 0.4, 1)]

figure = Figure(figsize=(8, 6.4), layout="constrained")
axes = figure.subplots(1 + len(words), len(calls))
for axis, call, picture in zip(axes[0], calls, pipeline.decode(trace.latents[0, calls]), strict=True):
    axis.imshow(picture)  # as the model guesses it at that moment
    axis.set_title(f"t = {trace.timesteps[call]}")
for row, word in zip(axes[1:], words, strict=True):
    maps = trace.maps(word)  # [calls, h, w]; of="scores" gives those before softmax
    for axis, call in zip(row, calls, strict=True):
        drawn = axis.imshow(maps[call], vmin=0, vmax=maps.max(), cmap="cividis")
    row[0].set_ylabel(word)
    figure.colorbar(drawn, ax=row, label="probability")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
figure.savefig("maps_by_word.png", dpi=70)
