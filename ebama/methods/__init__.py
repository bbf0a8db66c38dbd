"""Every system that can be compared, one file each, found by name."""

from __future__ import annotations

from ..guidance import Conditioning, Cost, GradientMethod, GuidanceResult, Guide, Method, Needs, Task
from .ane import AttendAndExcite
from .attention_regulation import AttentionRegulation
from .boxed import BoundedAttention, BoxDiff, LayoutGuidance
from .cd import ComposableDiffusion
from .conform import Conform
from .divide_and_bind import DivideAndBind
from .ebama import Ebama
from .ebama_official import EbamaOfficial
from .ebca import EnergyBasedCrossAttention
from .initial_noise import InitNO, SelfCross
from .p2p import PromptToPrompt
from .registry import Choice, complete, get, names, parse, register
from .sd import StableDiffusionBaseline
from .strd import StructuredDiffusion
from .syngen import SynGen

register(
    StableDiffusionBaseline,
    ComposableDiffusion,
    StructuredDiffusion,
    EnergyBasedCrossAttention,
    AttendAndExcite,
    SynGen,
    Ebama,
    EbamaOfficial,
    Conform,
    DivideAndBind,
    InitNO,
    AttentionRegulation,
    SelfCross,
    BoxDiff,
    LayoutGuidance,
    BoundedAttention,
    PromptToPrompt,
)
# In the order of the paper's Table 1, then what came after it. A new method is imported, registered and exported here.

__all__ = [
    "AttendAndExcite",
    "AttentionRegulation",
    "BoundedAttention",
    "BoxDiff",
    "Choice",
    "ComposableDiffusion",
    "Conditioning",
    "Conform",
    "Cost",
    "DivideAndBind",
    "Ebama",
    "EbamaOfficial",
    "EnergyBasedCrossAttention",
    "GradientMethod",
    "GuidanceResult",
    "Guide",
    "InitNO",
    "LayoutGuidance",
    "Method",
    "Needs",
    "PromptToPrompt",
    "SelfCross",
    "StableDiffusionBaseline",
    "StructuredDiffusion",
    "SynGen",
    "Task",
    "complete",
    "get",
    "names",
    "parse",
]
