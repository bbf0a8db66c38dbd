"""Train a small VAE: `torchrun --standalone --nproc-per-node 2 -m ebama.training.vae.train_small`.

Its factor is 4 and its pictures have 64 x 64 pixels, which is quick; `train_whole` goes on from it. Two stages: encoder
and decoder together on crops, and then the decoder alone on whole pictures. Its group normalisation takes statistics of
everything it is given, so crops are not what it will meet. It once was the VAE of a miniature that shipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from ebama.models import VAE, VAEConfig

from ..drawing.scenes import TRAINING, UNITS, VARIED, Composer, Scene, pick
from ..loop import TrainingConfig, checkpoint, options_parser, save, train

SMALL = VAEConfig(widths=(16, 32, 64), blocks=1, norm_groups=8, mid_attention=False, scale=1.0)
CROP = 32
CONFIG = TrainingConfig(steps=1300, batch=24, lr=2e-3, warmup=100, flat=0.2)
KL = 1e-5
DECODER_CONFIG = TrainingConfig(steps=1600, batch=8, lr=1e-3, warmup=50, flat=0.3, seed=1)


class Autoencoder(nn.Module):
    """Reconstruction and KL of images; one forward, as data parallel training wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = VAE(SMALL)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, h, w] in [-1, 1] -> (reconstruction, KL per latent pixel)."""
        posterior = self.vae.encode(x)
        kl = 0.5 * (posterior.mean**2 + posterior.logvar.exp() - 1 - posterior.logvar).sum(dim=1).mean()
        return self.vae.decode(posterior.mean + (0.5 * posterior.logvar).exp() * noise), kl


class Decoding(nn.Module):
    """Images [B, 3, h, w] -> their reconstruction from the mean of a frozen encoder's posterior."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False)
        for part in (vae.decoder, vae.post_quant_conv):
            part.requires_grad_(True)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        with torch.no_grad():
            z = self.vae.encode(x).mean
        return self.vae.decode(z)


def to_tensor(images: list[np.ndarray]) -> Tensor:
    """uint8 [h, w, 3] pictures -> float [B, 3, h, w] in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1


def crop(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A CROP x CROP window around one of the objects: flat background teaches nothing."""
    left, top, right, bottom = pick(rng, scene.drawn).box
    centre = rng.uniform((top, left), (bottom, right))
    y, x = (int(np.clip(c - CROP / 2, 0, scene.image.shape[0] - CROP)) for c in centre)
    return scene.image[y : y + CROP, x : x + CROP]


def reconstruction_loss(y: Tensor, x: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Absolute and squared error of pixels, absolute error of differences between neighbours; PSNR (dB) for the log."""
    edges = sum(F.l1_loss(y.diff(dim=dim), x.diff(dim=dim)) for dim in (2, 3))
    mse = F.mse_loss(y, x)
    return F.l1_loss(y, x) + 2 * mse + 0.5 * edges, {"psnr": -10 * (mse.detach() / 4).log10().item()}


@torch.no_grad()
def standardise(vae: VAE, composer: Composer, seed: int, count: int = 2000) -> None:
    """Give every latent channel mean 0 and standard deviation 1, folded exactly into the 1x1 convolutions."""
    rng = np.random.default_rng([seed, 2**31])
    batches = [to_tensor([composer.compose(rng).image for _ in range(100)]) for _ in trange(count // 100, desc="scale")]
    latents = torch.cat([vae.encode(batch).mean for batch in batches])
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    n = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    assert quant.bias is not None
    assert post.bias is not None
    quant.weight[:n] /= std[:, None, None, None]
    quant.bias[:n] = (quant.bias[:n] - mean) / std
    quant.bias[n:] -= 2 * std.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]


def train_small(state: Path) -> None:
    """Train the VAE; averaged and standardised it stays in `STATE/vae_half_final.pt`."""
    composer, varied = Composer(TRAINING, UNITS), Composer(VARIED, UNITS)

    def crops(network: nn.Module, step: int, worker: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([CONFIG.seed, step, worker])
        x = to_tensor([crop(composer.compose(rng), rng) for _ in range(CONFIG.batch)])
        side = CROP // SMALL.factor
        noise = torch.from_numpy(rng.standard_normal((len(x), SMALL.latent_channels, side, side), np.float32))
        y, kl = network(x, noise)
        loss, figures = reconstruction_loss(y, x)
        return loss + KL * kl, figures

    def pictures(network: nn.Module, step: int, worker: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([DECODER_CONFIG.seed, step, worker])
        x = to_tensor([varied.compose(rng).image for _ in range(DECODER_CONFIG.batch)])
        return reconstruction_loss(network(x), x)

    torch.manual_seed(CONFIG.seed)
    autoencoder = Autoencoder()
    train("vae_half", autoencoder, crops, CONFIG, state)
    first = checkpoint(state, "vae_half")
    autoencoder.load_state_dict(first["averaged"])
    standardise(autoencoder.vae, composer, CONFIG.seed)
    trained = train("vae_half_decoder", Decoding(autoencoder.vae), pictures, DECODER_CONFIG, state)
    if trained is not None:
        vae, seconds = trained.network.get_submodule("vae"), first["seconds"] + trained.seconds
        save({"vae": vae.state_dict(), "seconds": seconds}, state / "vae_half_final.pt")


def load_small(state: Path, name: str = "latents_final") -> VAE:
    """A trained VAE of factor 4, frozen; by default the one whose encoder gives the U-Net its latents."""
    vae = VAE(SMALL).eval().requires_grad_(False)
    vae.load_state_dict(torch.load(state / f"{name}.pt", weights_only=True)["vae"])
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return vae


if __name__ == "__main__":
    train_small(options_parser(train_small.__doc__).parse_args().state)
