"""Pictures that someone else made, scored: are all objects of the prompt there, and each in its colour?

`python score_images.py 50 FOLDER` takes any folder SYSTEM/PROMPT/NAME.png; without one, some pictures are made first.
"""

import sys
from pathlib import Path

from PIL import Image

from ebama import Pipeline
from ebama.evaluation.judges.scorer import JudgeScorer
from ebama.evaluation.scoring import score
from ebama.trace.contact_sheet import contact_sheet
from ebama.weights import load

steps, folder = int(sys.argv[1]) if len(sys.argv) > 1 else 50, Path(sys.argv[2] if len(sys.argv) > 2 else "theirs")
if not folder.exists():
    pipeline = Pipeline(load())
    for prompt in ("a frog and a turtle", "a bear and a red car"):
        (folder / "them" / prompt).mkdir(parents=True)
        for seed, image in enumerate(pipeline(prompt, seeds=range(4), method="sd", steps=steps).images):
            image.save(folder / "them" / prompt / f"{seed}.png")

rows: dict[str, list[Image.Image]] = {}
for line in score(folder, [JudgeScorer()]):  # the lines are also in FOLDER/scores.jsonl, for tables of your own
    there, bound = (line["scores"][key] for key in ("presence", "binding"))
    verdict = "None" if there is None else f"all there: {there:.0f}, colours right: {bound:.0f}"
    rows.setdefault(f"{line['prompt']} ({verdict})", []).append(Image.open(folder / line["file"]))
contact_sheet(sorted(rows.items())).save("score_images.png")
