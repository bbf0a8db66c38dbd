"""Drawings that no model made, as noise and back, and where their words look; needs the extra `train`."""

import sys
import time
from itertools import islice

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ebama import Pipeline
from ebama.training.drawing.scenes import SceneConfig, scenes
from ebama.weights import load

steps, pipeline = int(sys.argv[1]) if len(sys.argv) > 1 else 50, Pipeline(load())
drawn = list(islice(scenes(SceneConfig(neglect=0, miscolour=0), seed=12345), 20 if steps > 10 else 2))
pictures, prompts = [Image.fromarray(scene.image) for scene in drawn], [scene.caption for scene in drawn]
rows, traces, inside = {"picture": pictures, "VAE alone": pipeline.decode(pipeline.encode(pictures))}, [], []
for w, options in [(1, {}), (1, {"rounds": 3}), (7.5, {}), (7.5, {"null_text": True})]:
    name, begun = f"w = {w:g}\n{' '.join(options)}", time.process_time()
    inverted = pipeline.invert(pictures, prompts, steps=steps, **options)
    seconds = (time.process_time() - begun) / len(drawn)
    made = pipeline(prompts, image=inverted, method="sd", guidance=w, trace=True)
    squares = [np.square(np.subtract(r, made.images, dtype=float)).mean((1, 2, 3)) for r in [*rows.values()][:2]]
    print(w, options, *np.log10(255**2 / np.array(squares)).mean(1).round(2) * 10, "dB", f"{seconds:.1f} s", flush=True)
    rows[name], traces = made.images, [*traces, made.trace]
axis, side = (figure := Figure(figsize=(5.4, 8.6), layout="constrained")).subplots(), pictures[0].width
for k, scene in enumerate(drawn):
    for (noun, _), (left, top, right, bottom) in zip(scene.named, [shown.box for shown in scene.drawn]):
        map_ = np.kron(traces[0].maps(noun, sample=k).mean(dim=0), np.ones((side // 16, side // 16)))  # of 16x16
        inside.append((map_[top:bottom, left:right].sum() / map_.sum(), (right - left) * (bottom - top) / map_.size))
    axis.imshow(map_, extent=(k, k + 1, 0, 1), cmap="cividis")
    across, down = (k + left / side, (right - left) / side), (1 - bottom / side, (bottom - top) / side)
    axis.broken_barh([across], down, facecolor="none", edgecolor="white")
axis.imshow(np.vstack([np.hstack(images) for images in rows.values()]), extent=(0, len(drawn), 1, 1 + len(rows)))
axis.set(xlim=(0, 4), ylim=(0, 1 + len(rows)), xticks=[], aspect=1)
axis.set_yticks(0.5 + np.arange(1 + len(rows)), ["map of the\nlast word", *reversed(rows)])
figure.savefig("real_pictures.png", dpi=70)
print("inside the object's box: {:.1%} of a word's map, {:.1%} of the picture".format(*np.mean(inside, axis=0)))
