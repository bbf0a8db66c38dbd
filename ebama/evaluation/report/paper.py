"""Table 1 of the paper (Zhang, Yu and Wu 2024), to stand beside a run that can be compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from .. import benchmarks

SCORES = ("full", "min", "t-c")
SETS = ("animals", "animals_objects", "objects")
NOTE = (
    "Paper: Table 1 of Zhang, Yu and Wu 2024. Stable Diffusion v1.4, 64 pictures a prompt, seeds unpublished; "
    "similarities by CLIP ViT-B/16 and BLIP. Compare with them only what the same judges scored."
)

_EBAMA = ((0.340, 0.256, 0.817), (0.362, 0.270, 0.851), (0.366, 0.274, 0.836))
_BINDING_ONLY = ((0.340, 0.255, 0.814), (0.362, 0.271, 0.851), (0.360, 0.270, 0.823))
FIGURES = {
    "sd": ((0.311, 0.213, 0.767), (0.340, 0.246, 0.793), (0.335, 0.235, 0.765)),
    "cd": ((0.284, 0.232, 0.692), (0.336, 0.252, 0.769), (0.349, 0.265, 0.759)),
    "strd": ((0.306, 0.210, 0.761), (0.336, 0.242, 0.781), (0.332, 0.234, 0.762)),
    "ebca": ((0.291, 0.215, 0.722), (0.317, 0.229, 0.732), (0.321, 0.231, 0.726)),
    "ane": ((0.332, 0.248, 0.806), (0.353, 0.265, 0.830), (0.360, 0.270, 0.811)),
    "syngen": ((0.311, 0.213, 0.767), (0.355, 0.264, 0.830), (0.355, 0.262, 0.811)),
    "ebama+intensity_weight=0": _BINDING_ONLY,
    "ebama": _EBAMA,
    "ebama-official+intensity_weight=0": _BINDING_ONLY,
    "ebama-official": _EBAMA,
}
"""Method -> its scores on each of SETS. The paper has one EBAMA; both our readings of it stand beside it."""


def published(
    method: str, name: str, score: str, settings: Mapping[str, Any], judges: Mapping[str, str]
) -> float | None:
    """The paper's figure for a method's score on the set `name`; None unless this run is of its kind.

    That is: Stable Diffusion v1 (v1.4 cannot be told from its sisters by shape), whole sets of the Attend-and-Excite
    benchmark as far as `settings` of run.json say, and not scored by the judges of the miniature's world.
    """
    benchmark = str(settings.get("benchmark", ""))
    of_its_kind = (
        settings.get("model") == "sd-v1"
        and benchmark in ("ane", *(f"ane:{part}" for part in SETS))
        and settings.get("prompts") == _size(benchmark)
    )
    if not of_its_kind or "miniature" in judges.get(score, "") or score not in SCORES or name not in SETS:
        return None
    figures = FIGURES.get(method)
    return figures[SETS.index(name)][SCORES.index(score)] if figures else None


@cache
def _size(benchmark: str) -> int:
    """Prompts of a benchmark; `published` asks for every cell of a table."""
    return len(benchmarks.load(benchmark))
