"""CLIP's text transformer: token ids -> the contexts that cross-attention reads, with its own attention on request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention, AttentionRecords, AttentionResult, Control, Request, Site, select_sites
from .config import TextConfig

EPS = 1e-5


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI's approximation of gelu: x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class TextAttention(Attention):
    """Causal self-attention whose parameters have the names, and the order, that they have in files."""

    NAMES: ClassVar = {"to_k": "k_proj", "to_v": "v_proj", "to_q": "q_proj", "to_out": "out_proj"}

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, bias=True, causal=True)
        projections = dict(self.named_children())
        projections["to_out"] = projections["to_out"].get_submodule("0")
        for name, name_in_files in self.NAMES.items():
            delattr(self, name)
            self.add_module(name_in_files, projections[name])

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(self.NAMES.get(name, name))


class MLP(nn.Module):
    """Linear layer, activation, linear layer."""

    def __init__(self, width: int, inner_width: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(width, inner_width)
        self.fc2 = nn.Linear(inner_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.fc2(self.activation(self.fc1(x)))  # type: ignore[no-any-return]


class TextBlock(nn.Module):
    """x += self-attention(norm x); x += MLP(norm x)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = TextAttention(config.width, config.heads)
        self.layer_norm1 = nn.LayerNorm(config.width, eps=EPS)
        self.mlp = MLP(config.width, config.mlp_width, ACTIVATIONS[config.activation])
        self.layer_norm2 = nn.LayerNorm(config.width, eps=EPS)

    def forward(self, x: Tensor, site: Site, request: Request) -> AttentionResult:
        """x [B, n, width]."""
        result: AttentionResult = self.self_attn(self.layer_norm1(x), site=site, request=request)
        assert result.out is not None  # nothing stops early in a text encoder
        x = x + result.out
        return result._replace(out=x + self.mlp(self.layer_norm2(x)))


class TextEncoding(NamedTuple):
    """Contexts [B, n, width], the records that were asked for, and pooled vectors [B, projection_width] where the
    encoder makes them."""

    context: Tensor
    records: AttentionRecords
    pooled: Tensor | None


def _table(rows: int, width: int) -> nn.Embedding:
    """Without values: drawing normal ones on the meta device imports PyTorch's compiler, which takes seconds."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)  # type: ignore[no-any-return]


class TextEncoder(nn.Module):
    """Token ids [B, n] -> contexts [B, n, width]. Module and parameter names are transformers'.

    Padding is not masked: Stable Diffusion was trained to read the padding positions too.
    """

    def __init__(self, config: TextConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TextConfig()
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": _table(config.vocabulary, config.width),
                "position_embedding": _table(config.positions, config.width),
            }
        )
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(TextBlock(config) for _ in range(config.layers))})
        self.final_layer_norm = nn.LayerNorm(config.width, eps=EPS)
        pooled = config.projection_width
        self.text_projection = nn.Linear(config.width, pooled, bias=False) if pooled else None
        self._initialise()

    def _initialise(self) -> None:
        """Start as CLIP does: no biases, and weights whose size depends on width and depth."""
        narrow, deep = self.config.width**-0.5, (2 * self.config.layers) ** -0.5
        deviations = {"token_embedding": 0.02, "position_embedding": 0.02, "out_proj": narrow, "fc1": narrow / 2**0.5}
        deviations["text_projection"] = narrow
        deviations |= dict.fromkeys(("q_proj", "k_proj", "v_proj", "fc2"), narrow * deep)
        for path, parameter in self.named_parameters():
            *_, module, name = path.split(".")
            if name == "bias":
                nn.init.zeros_(parameter)
            elif module in deviations and not parameter.is_meta:  # norms are left at 1
                nn.init.normal_(parameter, std=deviations[module])

    def sites(self, length: int) -> list[Site]:
        """Attention layers in execution order for texts of `length` tokens; those that nothing reads have none."""
        pools = self.text_projection is not None
        run = self.config.layers if pools else self.config.layers + 1 + self.config.output_layer
        return [Site(f"encoder.layers.{i}.self_attn", "self", (1, length), self.config.heads) for i in range(run)]

    def forward(
        self, ids: Tensor, *, record: Iterable[Site | str] | None = None, control: Control | None = None
    ) -> Tensor | tuple[Tensor, AttentionRecords]:
        """Encode token ids [B, n], n at most `config.positions`.

        Args:
            record: sites (or their names) whose scores to return; the result is then (contexts, records).
            control: rewrites attention during this call.

        Raises:
            ValueError: ids of another shape, a selection that is empty or names no site (the message lists them).
        """
        encoding = self.encode(ids, record=record, control=control)
        return encoding.context if record is None else (encoding.context, encoding.records)

    def encode(
        self, ids: Tensor, *, record: Iterable[Site | str] | None = None, control: Control | None = None
    ) -> TextEncoding:
        """Contexts, records and pooled vectors in one; arguments and errors as for `forward`.

        The pooled vector is the last layer's output, after the final layer norm, at the first of the largest ids (the
        end of the text, in CLIP's vocabulary), projected.
        """
        if ids.ndim != 2 or not 0 < ids.shape[1] <= self.config.positions:
            raise ValueError(
                f"TextEncoder got ids of shape {list(ids.shape)}; expected [B, n] with n from 1 to "
                f"{self.config.positions}: cut longer texts, or choose a larger TextConfig.positions."
            )
        sites = self.sites(ids.shape[1])
        names = frozenset() if record is None else select_sites(sites, record, f"a text of {ids.shape[1]} tokens")
        request, records = Request(names, control=control), []
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.embeddings["token_embedding"](ids) + self.embeddings["position_embedding"](positions)
        context, output = x, self.config.layers + self.config.output_layer
        for i, (site, block) in enumerate(zip(sites, self.encoder["layers"].children(), strict=False)):
            x, layer_record, _ = block(x, site, request)
            if layer_record is not None:
                records.append(layer_record)
            if i == output:
                context = self.final_layer_norm(x) if self.config.final_norm else x
        pooled = None
        if self.text_projection is not None:
            ends = self.final_layer_norm(x)[torch.arange(len(ids), device=ids.device), ids.argmax(dim=1)]
            pooled = self.text_projection(ends)
        return TextEncoding(context, AttentionRecords(records), pooled)
