"""Maps of other texts are those of the layer; watching changes nothing; maps of several sizes add up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign_networks import STYLES, foreign
from reference import model, noise
from torch.nn import functional as F

from ebama.models import AttentionRecord, AttentionRecords, Site, Watch, attention_to
from ebama.models.attention import resized


@pytest.mark.parametrize("name", ["unet", *STYLES])
def test_the_own_text_has_the_maps_of_the_record(name: str) -> None:
    network: Any
    network, width = (model().unet, 16) if name == "unet" else (foreign(name)[1], 10)
    z = torch.cat([noise(1), noise(2)])
    texts = torch.randn(3, 77, width, generator=torch.Generator().manual_seed(0))
    sites = [site for site in network.sites(z.shape) if site.kind == "cross"]
    with torch.no_grad():
        records = attention_to(network, z, torch.tensor([501, 501]), texts[:2], texts)
        expected = network(z, 501, texts[:2], record=sites)[1]
        some = attention_to(network, z, 501, texts[:2], texts[:1], sites[-1:])
    assert [record.site for record in records] == sites
    for record, own in zip(records, expected, strict=True):
        assert len(record.scores) == 6
        for latent, row in enumerate((0, 4)):  # the first text of the first latent, the second of the second
            torch.testing.assert_close(record.scores[row], own.scores[latent], rtol=1e-4, atol=1e-4)
        visible = record.scores[0].isfinite()
        assert (record.scores[1] - record.scores[0])[visible].abs().max() > 1e-2
    torch.testing.assert_close(some[0].scores, records[-1].scores[::3], rtol=1e-4, atol=1e-4)


def test_pixels_are_no_text_and_a_network_must_ask_its_control() -> None:
    unet: Any = model().unet
    texts = torch.randn(1, 77, 16)
    with pytest.raises(ValueError, match=r"attn1 is a site of self-attention, whose keys are pixels"):
        attention_to(unet, noise(1), 501, texts, texts, unet.sites((16, 16))[:1])
    with pytest.raises(ValueError, match=r"no attention site \['nowhere'\]"):
        attention_to(unet, noise(1), 501, texts, texts, ["nowhere"])

    class Deaf:
        sites, attention = unet.sites, unet.attention

        def __call__(self, *args: Any, control: Any = None) -> Any:
            return unet(*args)

    with pytest.raises(ValueError, match=r"did not show its control the scores of .*attn2, "):
        attention_to(Deaf(), noise(1), 501, texts, texts)


def test_a_watched_network_computes_what_it_did() -> None:
    unet: Any = model().unet
    texts = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(0))
    sites = unet.sites((16, 16))[2:5]
    seen: dict[str, Any] = {}
    watch = Watch(sites, lambda call, scores: seen.update({call.site.name: scores}))
    with torch.no_grad():
        watched = unet(noise(1), 501, texts, control=watch)
        plain, records = unet(noise(1), 501, texts, record=sites)
    watch.check_seen()
    torch.testing.assert_close(watched, plain)
    assert list(seen) == [site.name for site in sites]
    for record in records:
        torch.testing.assert_close(seen[record.site.name], record.scores)


def test_maps_of_several_sizes_are_brought_to_one_and_summed() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = {"low": (4, 6), "high": (8, 12), "odd": (3, 5)}
    records = AttentionRecords(
        [
            AttentionRecord(Site(name, "cross", size, 2), torch.randn(2, 2, size[0] * size[1], 7, generator=generator))
            for name, size in sizes.items()
        ]
    )
    pooled = records.pooled()
    assert pooled.shape == (2, 8, 12, 7)
    by_hand = torch.zeros(2, 7, 8, 12)
    for record, size in zip(records, sizes.values(), strict=True):
        maps = record.probabilities.sum(1).transpose(1, 2).unflatten(-1, size)
        by_hand += F.interpolate(maps, (8, 12), mode="bilinear")
    torch.testing.assert_close(pooled, by_hand.permute(0, 2, 3, 1))
    same = records.where(name="low")
    torch.testing.assert_close(same.pooled(), 2 * same.mean_probabilities())
    assert records.pooled(5).shape == (2, 5, 5, 7)
    torch.testing.assert_close(resized(torch.arange(16.0).view(4, 4), (1, 1)), torch.tensor([[7.5]]))
    self_attention = AttentionRecord(Site("self", "self", (2, 2), 2), torch.zeros(2, 2, 4, 4))
    for odd in (AttentionRecords([*records, self_attention]), AttentionRecords([])):
        with pytest.raises(ValueError, match="can be pooled over sites of one kind"):
            odd.pooled()
