"""Another project with a copy of our folder `models/`: which pixels of a picture does one of its pixels look at?

Copy the folder beside this file and run `python copied_models.py WEIGHTS PICTURE`, WEIGHTS being a diffusers folder
(ours: weights/miniature). It needs no ebama.
"""

import sys

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file

from models import MINIATURE, VAE, UNet  # the copy

unet, vae = UNet(MINIATURE.unet), VAE(MINIATURE.vae)
for name, network in {"unet": unet, "vae": vae}.items():
    network.load_state_dict(load_file(f"{sys.argv[1]}/{name}/diffusion_pytorch_model.safetensors"))

side = MINIATURE.sample_size * vae.config.factor
picture = Image.open(sys.argv[2]).convert("RGB").resize((side, side))
pixels = torch.from_numpy(np.array(picture)).movedim(-1, 0)[None] / 127.5 - 1
silence = torch.zeros(1, 77, 128)  # a context whose keys and values are all 0: no word is heard
with torch.no_grad():
    latent = vae.encode(pixels).mean * vae.scale
    maps = unet.attention(latent, 1, silence, resolution=16, kind="self").mean_probabilities()[0]  # [y, x, pixel]

figure = Figure(figsize=(8, 2.4), layout="constrained")
axes = figure.subplots(1, 4)
axes[0].imshow(picture)
for axis, (y, x) in zip(axes[1:], ((3, 3), (4, 11), (10, 3)), strict=True):
    axis.imshow(maps[y, x].view(16, 16), cmap="cividis")
    axis.set_title(f"pixel {y}, {x} looks at")
    axis.plot(x, y, "r+")
for axis in axes:
    axis.axis("off")
figure.savefig("copied_models.png", dpi=70)
