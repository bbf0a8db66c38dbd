"""All methods side by side: what each changes and what a picture costs."""

from __future__ import annotations

from ebama.models import SD_V1, StableDiffusionConfig

from ..prompt import Parsed
from .registry import get, names


def overview(prompt: Parsed, calls: int = 51, config: StableDiffusionConfig = SD_V1) -> list[dict[str, str]]:
    """A row for each method, with its defaults for a model of shape `config`: name, what it changes, what it reads and
    what a picture of the prompt costs at most over `calls` model calls with classifier-free guidance.

    Costs are in passes of one sample through the U-Net: whole forwards (noise predictions), forwards that stop at the
    last attention site that is read, and backwards from there.
    """
    rows = []
    for name in names():
        method = get(name).resolved(config)
        cost = method.cost(prompt, calls)
        rows.append(
            {
                "method": name,
                "changes": method.changes,
                "reads": method.needs.sites,
                "forwards": str(cost.predictions),
                "stopped early": f"{cost.attention}" if cost.attention else "-",
                "backwards": f"{cost.backwards}" if cost.backwards else "-",
                "reference": method.reference,
            }
        )
    return rows
