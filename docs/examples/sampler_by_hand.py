"""The sampler driven by hand: every step of DDIM in view, with what the model believes it will draw at each."""

import sys

import torch

from ebama import Pipeline
from ebama.samplers import DDIM
from ebama.trace.contact_sheet import contact_sheet
from ebama.weights import load

sd = load()
sampler = DDIM(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
schedule, stride = sampler.schedule, sampler.schedule.stride(sampler.steps)
prompts = ["a cat and a red car", "a frog and a turtle"]
contexts = sd.encode_text(["", "", *prompts])  # the batch is two for each picture: without and with its prompt
z = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1))] * 2)

beliefs = []
with torch.no_grad():
    for t in sampler.timesteps:
        without, with_prompt = sd.unet(torch.cat([z, z]), t, contexts).chunk(2)
        epsilon = without + 7.5 * (with_prompt - without)
        beliefs.append(schedule.clean(z, epsilon, t))
        z = schedule.step(z, epsilon, t, t - stride)  # the latent at the next timestep: change what you like in between

shown = [round(part * (sampler.steps - 1)) for part in (0, 0.1, 0.2, 0.4, 1)]
pictures = Pipeline(sd).decode(torch.stack([beliefs[i] for i in shown], 1).flatten(0, 1))
rows = [(prompt, pictures[k * len(shown) :][: len(shown)]) for k, prompt in enumerate(prompts)]
contact_sheet(rows, [f"t = {sampler.timesteps[i]}" for i in shown]).save("sampler_by_hand.png")
