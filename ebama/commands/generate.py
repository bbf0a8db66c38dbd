"""`generate`: make pictures of a prompt."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import METHOD_HELP, MODEL, SAMPLING, add_shared, boxes, option, path, sampling

if TYPE_CHECKING:
    from PIL import Image

    from ..output.recipe import Recipe
    from .arguments import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("generate", help="make pictures of a prompt")
    parser.add_argument("prompt", nargs="?", help='what to draw, e.g. "a purple crown and a blue suitcase"')
    add_shared(parser, "seeds")
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
    add_shared(parser, "group", "box", *SAMPLING)
    parser.add_argument("--strength", type=float, help="which part of the steps --image goes through (default 0.8)")
    add_shared(parser, "batch_size")
    parser.add_argument("--memory", metavar="SIZE", help="the most that may be in use, as 6GB; runs are cut to fit")
    defaults = vars(parser.parse_args([]))  # of all that says nothing beside --from-png
    parser.add_argument("--from-png", type=path, metavar="FILE", help="make the picture of FILE again")
    parser.add_argument("--image", type=path, metavar="FILE", help="start from this picture, covered with noise")
    add_shared(parser, "out", *MODEL)
    parser.set_defaults(run=_run, defaults=defaults)


def _run(options: argparse.Namespace) -> None:
    if (options.prompt is None) == (options.from_png is None):
        raise ValueError("Give either a prompt or --from-png FILE.")
    if options.from_png is None:
        _generate(options)
        return
    changed = [name for name, default in options.defaults.items() if getattr(options, name) != default]
    if changed:
        names = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise ValueError(f"--from-png follows the file's recipe: leave {names} out, or give a prompt.")
    _generate_again(options)


def _generate(options: argparse.Namespace) -> None:
    """Make an image for each method and seed, and a contact sheet if there are several.

    Whatever else can be wrong is checked before the first image; each file is written as soon as its batch is done.
    """
    from ebama.samplers import get

    from .. import methods
    from ..output.files import check_folder
    from ..output.naming import file_name, slug
    from ..output.png import read_picture, save_new_png
    from ..trace.contact_sheet import contact_sheet
    from .model import check_prompts, open_pipeline

    if options.option and methods.parse(options.method).parts:
        raise ValueError(
            f"--option is for one method; write it beside its own, as {options.method}+{options.option[0]}."
        )
    method_text = "+".join((options.method, *options.option))
    systems = {text: methods.parse(text) for text in (method_text, *options.compare)}
    placed = boxes(options.box)
    get(options.sampler, options.steps)
    begin_with = None if options.image is None else read_picture(options.image)
    folder = options.out / slug(options.prompt)
    check_folder(folder)
    pipeline = open_pipeline(options, memory=options.memory)
    check_prompts(pipeline, [options.prompt], systems.values(), options, groups=options.group, boxes=placed)
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
                groups=options.group,
                boxes=placed,
                batch_size=size,
                image=begin_with,
                strength=options.strength,
                **sampling(options),
            )
            folder.mkdir(parents=True, exist_ok=True)
            for image, recipe in zip(result.images or (), result.recipes, strict=True):
                metadata = recipe.loaded_from(options.weights, options.dtype or "float32").to_metadata()
                path = save_new_png(image, folder / f"{file_name(name)}-seed{recipe.seed:04d}.png", metadata)
                print(path, flush=True)
                names.append(path.name)
                images.append(image)
        print(f"{name}: {(time.perf_counter() - start) / len(seeds):.2f} s per picture", file=sys.stderr)
        rows.append((name, images))
    if len(names) > 1:
        sheet = contact_sheet(rows, [f"seed {seed}" for seed in seeds])
        print(save_new_png(sheet, folder / "sheet.png", {"pictures": names}))


def _generate_again(options: argparse.Namespace) -> None:
    """Make the image of a PNG that `generate` wrote again, and say whether every pixel agrees.

    `--weights` and `--dtype` replace those that it was made with.
    """
    from .. import methods
    from ..output.files import check_folder
    from ..output.naming import file_name
    from ..output.png import read_picture, save_new_png
    from ..output.recipe import SIZES, read_recipe
    from ..prompt import parsers
    from ..starts import described
    from .model import open_pipeline

    stored, picture = read_recipe(options.from_png), read_picture(options.from_png)
    if stored.seed is None and stored.inversion is None:
        raise ValueError(
            f"{options.from_png} was made from latents given by hand; there is no seed to make it again from."
        )
    weights, dtype = options.weights or stored.weights, options.dtype or stored.dtype or "float32"
    if not options.weights and stored.weights and not Path(stored.weights).exists():
        raise ValueError(
            f"{options.from_png} was made by {stored.weights}, which is not here; say with --weights where it is."
        )
    check_folder(options.out)
    hyperparameters = dict(stored.method)
    choice = methods.get(hyperparameters.pop("name"), **hyperparameters)
    arguments = stored.arguments()
    if (stored.image is None) != (options.image is None):
        needs = "from no picture; leave --image out" if options.image else "from a picture; give it with --image FILE"
        raise ValueError(f"{options.from_png} was made {needs}.")
    begin_with: Any = None if options.image is None else read_picture(options.image)
    inversion = None if stored.inversion is None else described(stored.inversion)
    if not choice.needs.phrases and stored.parser not in parsers.installed():
        arguments["parser"] = parsers.RULES  # the recipe says all that is read out of a prompt, but for the phrases
    prediction = options.prediction or (None if options.weights else stored.sampler.schedule.prediction)
    pipeline = open_pipeline(options, weights=weights, dtype=dtype, prediction=prediction)
    vae = pipeline.sd.config.vae
    if size := stored.size(vae.latent_channels, vae.factor):
        arguments["size"] = size
    if begin_with is not None and inversion is not None:
        inversion |= {name: value for name, value in arguments.items() if name in ("size", *SIZES)}
        begin_with = pipeline.invert(begin_with, sampler=stored.sampler, **inversion)
    result = pipeline(method=choice, image=begin_with, **arguments)
    assert result.images is not None
    recipe = result.recipes[0].loaded_from(weights, dtype)
    options.out.mkdir(parents=True, exist_ok=True)
    name = file_name(options.from_png.stem)
    print(save_new_png(result.images[0], options.out / f"{name}-again.png", recipe.to_metadata()))
    print(_differences(picture, stored, result.images[0], recipe), file=sys.stderr)


def _differences(source: Image.Image, stored: Recipe, image: Image.Image, recipe: Recipe) -> str:
    """How an image that was made again differs from its source, and why it may."""
    import numpy as np

    before, now = (np.asarray(picture.convert("RGB"), dtype=int) for picture in (source, image))
    if before.shape != now.shape:
        says = f"the file's picture is of another size, {before.shape[1]}x{before.shape[0]}"
    else:
        difference = np.abs(before - now).max()
        says = "every pixel is the same" if difference == 0 else f"pixels differ by up to {difference} of 255"
    if recipe.dtype == stored.dtype and recipe.fingerprint != stored.fingerprint:
        says += "; the weights are not those that it was made with"
    if recipe.image != stored.image:
        says += "; --image is not the picture that it was made from"
    if newer := sorted(recipe.method.keys() - stored.method.keys()):
        says += f"; the file does not say {', '.join(newer)}, for which today's defaults were taken"
    return says
