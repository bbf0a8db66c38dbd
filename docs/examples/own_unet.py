"""Our `Attention` in a U-Net of your own, which learns to colour a grey disc and a grey square as the prompt says."""

import sys

import torch
from matplotlib.figure import Figure
from torch import nn

from ebama.models import Attention, Site
from ebama.models.attention import Request
from ebama.weights import load

torch.manual_seed(0)
down = nn.Sequential(nn.Conv2d(1, 32, 4, 2, 1), nn.SiLU(), nn.Conv2d(32, 32, 5, padding=2), nn.SiLU())
attention = Attention(width=32, heads=2, context_width=128)
up = nn.Sequential(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.SiLU(), nn.Conv2d(32, 3, 3, padding=1))
site = Site("words", "cross", resolution=(16, 16), heads=2)
asked = Request(record=frozenset({site.name}))  # hand out this site's scores
colours, names = torch.eye(3), ("red", "green", "blue")
contexts = load().encode_text([f"a {a} disc and a {b} square" for a in names for b in names])
optimizer = torch.optim.AdamW([*down.parameters(), *attention.parameters(), *up.parameters()], lr=3e-3)
for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 600):
    pair, y, x = torch.randint(3, (8, 2)), torch.randint(8, 24, (8, 2, 1, 1)), torch.tensor([8, 24]).view(2, 1, 1)
    dy, dx = (torch.arange(32)[:, None] - y).abs(), (torch.arange(32) - x).abs().expand(8, -1, -1, -1)
    shapes = torch.stack([dy[:, 0] ** 2 + dx[:, 0] ** 2 < 36, torch.maximum(dy, dx)[:, 1] < 5], dim=1).float()
    h = down(shapes.sum(1, keepdim=True))  # [8, 32, 16, 16]
    out, record, _ = attention(h.flatten(2).mT, contexts[3 * pair[:, 0] + pair[:, 1]], site=site, request=asked)
    coloured = up(torch.cat([h, out.mT.reshape(h.shape)], dim=1))
    loss = (coloured - torch.einsum("bshw,bsc->bchw", shapes, colours[pair])).square().mean()
    optimizer.zero_grad(), loss.backward(), optimizer.step()

figure, maps = Figure(layout="constrained"), record.probabilities.detach().mean(1).unflatten(1, (16, 16))
panels = {"grey": shapes.sum(1), "coloured": coloured.detach().clamp(0, 1).movedim(1, -1)}
panels |= {"1st colour word": maps[..., 2], "2nd colour word": maps[..., 6]}
for column, (title, images) in zip(figure.subplots(3, 4).T, panels.items(), strict=True):
    for axis, image in zip(column, images, strict=False):
        axis.imshow(image, cmap="cividis")
        axis.set(title=title, xticks=[], yticks=[])
figure.savefig("own_unet.png", dpi=70)
