"""Clusters of what pixels look at, and which subject each belongs to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

STARTS = 100
ROUNDS = 100
TOLERANCE = 1e-4
LEAST_SCORE = 0.2
EPS = 1e-5


def k_means(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from centres [..., cluster, d] on points [n, d]: (label of each point [..., n], centres).

    A cluster without points keeps its centre.
    """
    for _ in range(ROUNDS):
        members = F.one_hot(torch.cdist(points, centres).argmin(dim=-1), centres.shape[-2]).to(
            points
        )  # [..., n, cluster]
        counts = members.sum(dim=-2)[..., None]
        moved = torch.where(counts > 0, members.mT @ points / counts.clamp(min=1), centres)
        shift, centres = (moved - centres).norm(dim=-1).amax(), moved
        if shift <= TOLERANCE:
            break
    return torch.cdist(points, centres).argmin(dim=-1), centres


def first_clusters(points: Tensor, clusters: int, seed: int) -> tuple[Tensor, Tensor]:
    """The best of many starts from random points, by the squared distances to the centres: (labels [n], centres)."""
    generator = torch.Generator("cpu").manual_seed(seed)
    even = torch.ones(STARTS, len(points), dtype=torch.float32, device="cpu")
    labels, centres = k_means(points, points[torch.multinomial(even, clusters, generator=generator)])
    inertia = torch.cdist(points, centres).amin(dim=-1).square().sum(dim=-1)
    best = int(inertia.argmin())
    return labels[best], centres[best]


def looks(self_map: Tensor) -> Tensor:
    """Features of pixels [n, n] from self-attention [query, key]: each key's column over its greatest value."""
    return self_map / (self_map.amax(dim=0, keepdim=True) + EPS)


def sharpened(cross_maps: Tensor, masks: Tensor) -> Tensor:
    """Subjects' maps [subject, n] within masks [subject, n], pushed to 0 and 1."""
    scaled = cross_maps / (cross_maps.amax(dim=1, keepdim=True) + EPS)
    steep = torch.sigmoid(10 * (scaled - 0.2))
    low, high = steep.amin(dim=1, keepdim=True), steep.amax(dim=1, keepdim=True)
    return (steep - low) / (high - low + EPS) * masks


def subject_masks(labels: Tensor, clusters: int, maps: Tensor, boxes: Tensor) -> Tensor:
    """[subject, n] booleans: the clusters that belong to each subject, from labels [n], the subjects' sharpened maps
    [subject, n] and their boxes [subject, n].

    A cluster goes to the subject with the greatest share of the map in it, or to none below 0.2. A subject without a
    cluster has its box, which the others lose.
    """
    members = F.one_hot(labels, clusters).to(maps)  # [n, cluster]
    sums, counts = maps @ members, members.sum(dim=0)
    scores = sums / torch.minimum(maps.sum(dim=1, keepdim=True), counts).clamp(min=EPS)
    best, owner = scores.max(dim=0)
    owned = F.one_hot(owner, len(maps)).T.bool() & (best >= LEAST_SCORE)  # [subject, cluster]
    masks = (owned.to(maps) @ members.mT) > 0
    for subject in range(len(masks)):
        if not masks[subject].any():
            masks &= ~boxes[subject].bool()
            masks[subject] = boxes[subject].bool()
    return masks
