"""`evaluate`: a benchmark's pictures for several methods at the same noise, their scores, the table and the page."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from .arguments import METHOD_HELP, MODEL, add_shared, path, positive
from .report import show

if TYPE_CHECKING:
    from .arguments import Commands

METHODS = ("sd", "cd", "strd", "ebca", "ane", "syngen", "ebama+intensity_weight=0", "ebama")
"""The paper's Table 1."""


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("evaluate", help="run a benchmark with several methods and make the paper's table")
    parser.add_argument(
        "--benchmark",
        type=os.path.expanduser,
        default="ane",
        help="ane (default), ane:SET, boxed, boxed-tuning:N, dvmp, similar:N, singles, tuning:N, or a file of prompts",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        metavar="METHOD",
        help=f"{METHOD_HELP} (default: {' '.join(METHODS)})",
    )
    add_shared(parser, "seeds", seeds="0:4")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N prompts of each set")
    add_shared(parser, "steps", "guidance", "sampler", "size", "parser", "batch_size", batch_size=8)
    parser.add_argument("--shard", type=_shard, default=(0, 1), metavar="I/N", help="make only the I-th of N parts")
    add_shared(parser, "out", out=Path("outputs/evaluation"))
    parser.add_argument("--score-only", type=path, metavar="DIR", help="score pictures METHOD/PROMPT/SEED.png of DIR")
    parser.add_argument(
        "--judge",
        action=argparse.BooleanOptionalAction,
        help="score by the miniature's judge (default: only pictures of the miniature; it cannot read photographs)",
    )
    parser.add_argument(
        "--clip",
        type=os.path.expanduser,
        metavar="FOLDER",
        help='Full and Min similarity by this CLIP model, or "miniature" for the embedded one',
    )
    parser.add_argument(
        "--blip",
        type=os.path.expanduser,
        metavar="FOLDER",
        help='T-C similarity by this BLIP captioner, or "miniature"; needs --clip',
    )
    add_shared(parser, *MODEL)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ebama.weights.loading import check_device

    from ..evaluation.distributed import own_device, workers
    from .model import check_drawing

    options.device = own_device(options.device)
    check_device(options.device)
    _check_temporary_folder()
    check_drawing()
    if options.clip is not None or options.blip is not None:  # refused here, before hours of pictures
        from ..evaluation.judges.similarity import check

        check(options.clip, options.blip)
    if options.score_only is not None:
        _score(options, options.score_only)
        return
    with workers() as (rank, count):
        if _make(options, rank, count):
            _score(options, options.out)


def _make(options: argparse.Namespace, rank: int, count: int) -> bool:
    """Make this process's part of the shard; True in the first process once no picture of the run is missing."""
    from .. import methods
    from ..evaluation import run as evaluation
    from ..evaluation.benchmarks import load
    from ..evaluation.distributed import barrier
    from ..evaluation.work import Run
    from ..output.files import check_folder
    from ..starts import latent_size
    from .model import open_pipeline

    chosen = {text: methods.parse(text) for text in options.methods}
    prompts = load(options.benchmark)
    if options.limit:
        first = {name: [p for p in prompts if p.set == name][: options.limit] for name in {p.set for p in prompts}}
        prompts = [prompt for prompt in prompts if prompt in first[prompt.set]]
    check_folder(options.out)
    pipeline = open_pipeline(options)
    latent_size(pipeline.sd.config, options.size)
    run = Run(
        prompts=prompts,
        methods={name: method.complete(pipeline.sd.config) for name, method in chosen.items()},
        seeds=options.seeds,
        benchmark=options.benchmark,
        steps=options.steps,
        sampler=options.sampler,
        guidance=options.guidance,
        batch_size=options.batch_size,
        parser=options.parser,
        weights=str(options.weights) if options.weights else None,
        prediction=options.prediction,
        dtype=options.dtype or "float32",
        size=options.size,
    )
    evaluation.check_boxes(run, pipeline)
    evaluation.start(run, options.out, pipeline.sd.config.name, pipeline.sd.fingerprint())
    shard, shards = options.shard
    evaluation.make(run, pipeline, options.out, shard * count + rank, shards * count)
    barrier()
    if rank != 0:
        return False
    is_complete = evaluation.finish(run, options.out)
    if not is_complete:
        print(f"{options.out} is not complete yet; other shards are still to be made.")
    return is_complete


def _score(options: argparse.Namespace, folder: Path) -> None:
    from ebama.models import MINIATURE

    from ..evaluation.benchmarks import load
    from ..evaluation.judges.naturalness import NaturalnessScorer
    from ..evaluation.judges.scorer import JudgeScorer, Scorer
    from ..evaluation.judges.second import SecondJudgeScorer
    from ..evaluation.report.tables import FILES, settings
    from ..evaluation.scoring import prompts, score
    from ..output.files import check_file

    for name in FILES if folder.is_dir() else ():  # refused here, before everything is scored
        check_file(folder / name)
    benchmark = load(options.benchmark)
    of_miniature = settings(folder).get("model") == MINIATURE.name
    judged = of_miniature if options.judge is None else options.judge
    listed = prompts(folder, benchmark)
    scorers: list[Scorer] = []
    if judged:
        scorers = [JudgeScorer(any(prompt.boxes for prompt in listed)), NaturalnessScorer(), SecondJudgeScorer()]
    if options.clip is not None:
        from ..evaluation.judges.similarity import similarities

        scorers += similarities(options.clip, options.blip, [prompt.text for prompt in listed], options.device)
    if not scorers:
        print("Nobody judges these pictures: --clip and --blip name models, --judge takes the miniature's judge.")
    score(folder, scorers, benchmark=benchmark)
    show(folder)


def _check_temporary_folder() -> None:
    """Raise ValueError if there is none: judges come with libraries that want one, when all pictures are made."""
    try:
        gettempdir()
    except FileNotFoundError as error:
        raise ValueError(f"{error.strerror}; let TMPDIR name one that can be written.") from error


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; expected I/N with I from 0 to N - 1, e.g. 0/2")
    return int(index), int(count)
