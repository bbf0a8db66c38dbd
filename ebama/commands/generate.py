"""`generate`: make pictures of a prompt."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import METHOD_HELP, add_model, group, option, positive, seeds

if TYPE_CHECKING:
    from PIL import Image

    from .arguments import Commands


_NEEDED = frozenset(
    ("prompt", "seed", "method", "sampler", "guidance", "negative_prompt", "groups", "parser", "weights", "dtype")
)


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("generate", help="make pictures of a prompt")
    parser.add_argument("prompt", nargs="?", help='what to draw, e.g. "a purple crown and a blue suitcase"')
    parser.add_argument("--seeds", type=seeds, default=[0], help="0:4 is 0 1 2 3; or 3; or 1,5,9 (default 0)")
    parser.add_argument("--method", default="ebama", help=f"{METHOD_HELP} (default: ebama)")
    parser.add_argument("--compare", nargs="+", default=[], metavar="METHOD", help="further methods at the same seeds")
    parser.add_argument(
        "--option",
        type=option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a hyper-parameter of --method",
    )
    parser.add_argument(
        "--group", type=group, action="append", metavar="OBJECT:MODIFIER,...", help="instead of parsing"
    )
    parser.add_argument("--negative", default="", help="negative prompt")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5, help="classifier-free guidance scale")
    parser.add_argument("--sampler", default="pndm", help="pndm or ddim")
    parser.add_argument("--parser", default="auto", help="auto, rules, or an installed spaCy model")
    parser.add_argument("--batch-size", type=positive, default=4, help="samples that run at once")
    parser.add_argument("--memory", metavar="SIZE", help="the most that may be in use, as 6GB; runs are cut to fit")
    defaults = vars(parser.parse_args([]))  # of all that says nothing beside --from-png
    parser.add_argument("--from-png", type=Path, metavar="FILE", help="make the picture of FILE again")
    parser.add_argument("--out", type=Path, default=Path("outputs"))
    add_model(parser)
    parser.set_defaults(run=_run, defaults=defaults)


def _run(options: argparse.Namespace) -> None:
    if (options.prompt is None) == (options.from_png is None):
        raise ValueError("Give either a prompt or --from-png FILE.")
    if options.from_png is None:
        _generate(options)
        return
    given = [name for name, default in options.defaults.items() if getattr(options, name) != default]
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"--from-png follows the file's recipe: leave {names} out, or give a prompt.")
    _generate_again(options)


def _generate(options: argparse.Namespace) -> None:
    """Make an image for each method and seed, and a contact sheet if there are several.

    Whatever else can be wrong is checked before the first image; each file is written as soon as its batch is done.
    """
    import sys
    import time

    from ebama.samplers import get

    from .. import methods
    from ..output.naming import check_writable, free_path, slug
    from ..output.png import save_png
    from ..output.recipe import complete
    from ..trace.contact_sheet import contact_sheet
    from .model import open_pipeline

    method_text = "+".join((options.method, *options.option))
    systems = {text: methods.parse(text) for text in (method_text, *options.compare)}
    get(options.sampler, options.steps)
    folder = options.out / slug(options.prompt)
    check_writable(folder)
    pipeline = open_pipeline(options.weights, options.device, options.dtype, options.memory)
    seeds, size = options.seeds, options.batch_size
    rows: list[tuple[str, list[Image.Image]]] = []
    names: list[str] = []
    for name, method in systems.items():
        images: list[Image.Image] = []
        start = time.perf_counter()
        for first in range(0, len(seeds), size):
            result = pipeline(
                options.prompt,
                seeds=seeds[first : first + size],
                method=method,
                steps=options.steps,
                guidance=options.guidance,
                sampler=options.sampler,
                groups=options.group,
                negative_prompt=options.negative,
                parser=options.parser,
                batch_size=size,
            )
            folder.mkdir(parents=True, exist_ok=True)
            for image, metadata in zip(result.images or (), result.metadata, strict=True):
                metadata = complete(metadata, options.weights, options.dtype or "float32")
                path = free_path(folder / f"{name}-seed{metadata['seed']:04d}.png", metadata)
                save_png(image, path, metadata)
                print(path, flush=True)
                names.append(path.name)
                images.append(image)
        print(f"{name}: {(time.perf_counter() - start) / len(seeds):.2f} s per picture", file=sys.stderr)
        rows.append((name, images))
    if len(names) > 1:
        sheet = {"pictures": names}
        path = free_path(folder / "sheet.png", sheet)
        save_png(contact_sheet(rows, [f"seed {seed}" for seed in seeds]), path, sheet)
        print(path)


def _generate_again(options: argparse.Namespace) -> None:
    """Make the image of a PNG that `generate` wrote again, and say whether every pixel agrees.

    `--weights` and `--dtype` replace those that it was made with.
    """
    import sys
    from dataclasses import replace

    import numpy as np
    from PIL import Image

    from ebama.samplers import DDIM, NoiseSchedule, get

    from .. import methods
    from ..output.naming import check_writable, free_path
    from ..output.png import read_metadata, save_png
    from ..output.recipe import complete
    from ..prompt import Group, parsers
    from .model import open_pipeline

    source, out, weights = options.from_png, options.out, options.weights
    stored = read_metadata(source)
    if missing := sorted(_NEEDED - set(stored)):
        raise ValueError(f"{source} holds no recipe of a single picture: {', '.join(missing)} are missing.")
    if stored["seed"] is None:
        raise ValueError(f"{source} was made from latents given by hand; there is no seed to make it again from.")
    if weights is None and stored["weights"] is not None:
        weights = Path(stored["weights"])
    check_writable(out)
    hyperparameters = dict(stored["method"])
    method = methods.get(hyperparameters.pop("name"), **hyperparameters)
    solver = stored["sampler"]
    schedule = NoiseSchedule(**solver.get("schedule", {}))
    dtype = options.dtype or stored["dtype"]
    result = open_pipeline(weights, options.device, dtype)(
        stored["prompt"],
        seeds=[stored["seed"]],
        method=method,
        guidance=stored["guidance"],
        sampler=DDIM(solver["steps"], solver["eta"], schedule)
        if solver["name"] == "ddim"
        else replace(get(solver["name"], solver["steps"]), schedule=schedule),
        negative_prompt=stored["negative_prompt"],
        # What is stored says all that is read out of a prompt, but for the phrases.
        parser=stored["parser"] if method.needs.phrases or stored["parser"] in parsers.installed() else parsers.RULES,
        groups=[Group(tuple(g["object"]), tuple(tuple(m) for m in g["modifiers"])) for g in stored["groups"]],
    )
    assert result.images is not None
    metadata = complete(result.metadata[0], weights, dtype)
    out.mkdir(parents=True, exist_ok=True)
    path = free_path(out / f"{source.stem}-again.png", metadata)
    save_png(result.images[0], path, metadata)
    print(path)
    with Image.open(source) as original:
        before, now = (np.asarray(image.convert("RGB"), dtype=int) for image in (original, result.images[0]))
    if before.shape != now.shape:
        says = f"the file's picture is of another size, {original.width}x{original.height}"
    else:
        difference = np.abs(before - now).max()
        says = "every pixel is the same" if difference == 0 else f"pixels differ by up to {difference} of 255"
    if dtype == stored["dtype"] and metadata["fingerprint"] != stored.get("fingerprint"):
        says += "; the weights are not those that it was made with"
    if newer := sorted(set(method.describe()) - set(stored["method"])):
        says += f"; the file does not say {', '.join(newer)}, for which today's defaults were taken"
    print(says, file=sys.stderr)
