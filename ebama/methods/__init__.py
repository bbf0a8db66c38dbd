"""Every system that can be compared, one file each, found by name."""

# isort: off
from ..guidance import Conditioning as Conditioning, Cost as Cost, GradientMethod as GradientMethod
from ..guidance import GuidanceResult as GuidanceResult, Guide as Guide, Method as Method, Needs as Needs, Task as Task
from .registry import Choice as Choice, complete as complete, get as get, names as names, parse as parse
from .registry import register as _register

# The methods, in the order of the paper's Table 1, then what came after it; a new one is a line here.
from .sd import StableDiffusionBaseline as StableDiffusionBaseline
from .cd import ComposableDiffusion as ComposableDiffusion
from .strd import StructuredDiffusion as StructuredDiffusion
from .ebca import EnergyBasedCrossAttention as EnergyBasedCrossAttention
from .ane import AttendAndExcite as AttendAndExcite
from .syngen import SynGen as SynGen
from .ebama import Ebama as Ebama
from .ebama_official import EbamaOfficial as EbamaOfficial
from .conform import Conform as Conform
from .divide_and_bind import DivideAndBind as DivideAndBind
from .initial_noise.initno import InitNO as InitNO
from .attention_regulation import AttentionRegulation as AttentionRegulation
from .initial_noise.self_cross import SelfCross as SelfCross
from .boxed.boxdiff import BoxDiff as BoxDiff
from .boxed.layout_guidance import LayoutGuidance as LayoutGuidance
from .boxed.bounded_attention import BoundedAttention as BoundedAttention
from .p2p import PromptToPrompt as PromptToPrompt

_register(globals().values())
