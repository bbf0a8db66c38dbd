"""Means over a benchmark's pictures, with intervals that count prompts, not pictures, as independent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Values = Mapping[tuple[str, object], float]
"""(prompt, seed) -> score."""

SAMPLES = 2000
"""Bootstrap samples."""
FEWEST = 5
"""Prompts below which a bootstrap interval supports no verdict: resampling two or three hardly varies."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval; `count` pictures of `prompts` prompts went into it."""

    mean: float
    low: float
    high: float
    count: int
    prompts: int

    @property
    def verdict(self) -> str:
        """Whether the interval lies "above" or "below" zero; "open" if it holds zero, or with too few prompts."""
        if self.prompts < FEWEST:
            return "open"
        return "above" if self.low > 0 else "below" if self.high < 0 else "open"

    def shown(self, share: bool, sign: str = "") -> tuple[str, str, str]:
        """Mean, low and high as a reader sees them: shares in percent with one decimal, others with three."""
        scale, form = (100, f"{sign}.1f") if share else (1, f"{sign}.3f")
        return format(self.mean * scale, form), format(self.low * scale, form), format(self.high * scale, form)


def estimate(values: Values, seed: int = 0) -> Estimate:
    """Mean over all values, resampled by prompts: a prompt's pictures stay together, as they succeed or fail together.

    The limits are the 2.5 % and 97.5 % quantiles of 2,000 resampled means. Raises ValueError without values.
    """
    by_prompt: dict[str, list[float]] = {}
    for (prompt, _), value in values.items():
        by_prompt.setdefault(prompt, []).append(value)
    if not by_prompt:
        raise ValueError("There are no values to estimate a mean from.")
    sums = np.array([float(sum(scores)) for scores in by_prompt.values()])
    counts = np.array([len(scores) for scores in by_prompt.values()])
    prompts = np.random.default_rng(seed).integers(0, len(sums), (SAMPLES, len(sums)))
    resampled = sums[prompts].sum(axis=1) / counts[prompts].sum(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(float(sums.sum() / counts.sum()), float(low), float(high), len(values), len(sums))


def difference(values: Values, baseline: Values, seed: int = 0) -> Estimate:
    """Mean of values minus baseline over the (prompt, seed) that both have, with its interval as above."""
    return estimate({key: value - baseline[key] for key, value in values.items() if key in baseline}, seed)
