"""The memory budget: what is measured, how a run is cut, and what is said where nothing fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from reference import model, relative, run
from torch import Tensor

from ebama import Pipeline, methods, sampling
from ebama.cli import main
from ebama.runtime import memory, usage
from ebama.runtime.memory import Footprint, Split
from ebama.samplers import DDIM
from ebama.starts import NullText

PROMPT = "a purple crown and a blue suitcase"
NEEDS = Footprint(prediction=10, guided=100, checkpointed=40, decoded=30, scratch=50)
PIXELS = 256


def cut(budget: int, **options: Any) -> Split:
    return memory.split(NEEDS, budget, 1000, **({"pixels": PIXELS, "rows": 2, "gradient": True, "wanted": 8} | options))


def need(each: float, held: float = 1050) -> int:
    """The budget at which one more of that size fits."""
    return int(held + memory.MARGIN * each * PIXELS) + 1


@pytest.mark.parametrize(
    ("text", "size"), [("6GB", 6 * 2**30), ("1.5 GiB", 1536 * 2**20), ("800m", 800 * 2**20), (123, 123), ("7 kb", 7168)]
)
def test_parse_reads_sizes(text: str | int, size: int) -> None:
    assert memory.parse(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "6 apples", "0", 0, "nan", pytest.param("9" * 5000, id="long")])
def test_pipeline_refuses_a_memory_that_is_no_size(text: str | int) -> None:
    with pytest.raises(ValueError, match="expected a size such as '6GB'"):
        Pipeline(model(), memory=text)


def test_the_peak_counts_what_is_held_at_once() -> None:
    given = torch.ones(1000)

    def one_by_one() -> None:
        for _ in range(5):
            given + 1

    def together() -> list[Tensor]:
        return [given + 1, (given + 1).view(10, 100)[1:]]

    assert usage.peak(one_by_one, [given]) == 4000
    assert usage.peak(together, [given]) == 8000
    assert usage.peak(lambda: given.view(10, 100), [given]) == 0


@pytest.mark.slow
def test_a_gradient_holds_more_and_checkpointing_less() -> None:
    found = Pipeline(model()).footprint
    assert found.guided > found.checkpointed > found.prediction > 0
    assert found.decoded > 0


@pytest.mark.slow
def test_null_texts_are_cut_by_the_gradient_of_the_whole_network(monkeypatch: pytest.MonkeyPatch) -> None:
    sd, known = model(), [weight for part in (model().unet, model().vae) for weight in part.parameters()]
    needs = memory.footprint(sd, None)
    assert needs.guided > needs.checkpointed > needs.prediction
    monkeypatch.setattr(usage, "held", lambda device: 0)
    seen: list[tuple[int, bool]] = []
    forward = sd.unet.forward

    def watched(z: Tensor, *args: Any, **options: Any) -> Any:
        seen.append((len(z), options["checkpoint"])) if torch.is_grad_enabled() else None
        return forward(z, *args, **options)

    monkeypatch.setattr(sd.unet, "forward", watched)
    options: dict[str, Any] = {"sampler": DDIM.at((60,)), "null_text": NullText(iterations=1), "progress": False}
    pictures, made = [Image.new("RGB", (32, 32), colour) for colour in ("white", "red", "blue")], []
    most = usage.peak(lambda: made.append(Pipeline(sd).invert(pictures, PROMPT, **options)), known)
    assert needs.guided / 2 < most / (3 * PIXELS) < memory.MARGIN * needs.guided
    budget = int(needs.scratch + 2 * memory.MARGIN * needs.checkpointed * PIXELS) + 2
    made.append(Pipeline(sd, memory=budget).invert(pictures, PROMPT, **options))
    assert (seen[0], seen[-2:]) == ((3, False), [(2, True), (1, True)])  # between them the footprint is measured again
    assert relative(made[1].null_texts, made[0].null_texts) <= 1e-3


def test_samples_are_cut_before_activations_are_dropped() -> None:
    assert cut(10**9) == Split(8, False, 8)
    assert cut(need(300)) == Split(3, False, 8)
    assert cut(need(100)) == Split(1, False, 3)
    assert cut(need(80)) == Split(2, True, 2)
    assert cut(need(40)) == Split(1, True, 1)
    assert cut(need(40), gradient=False) == Split(2, False, 1)
    assert cut(need(200), least=2) == Split(2, False, 6)


def test_split_refuses_a_budget_that_nothing_fits() -> None:
    for budget in (900, need(40) - 2):
        with pytest.raises(ValueError, match=r"is too little: .* taken already and the smallest run needs"):
            cut(budget)


@pytest.mark.slow
def test_a_run_on_a_budget_makes_the_same_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    gentle = methods.get("ebama", step_size=0.5)  # so that rounding errors do not grow
    expected = run(PROMPT, gentle, seeds=[0, 1, 2], sampler="pndm")
    monkeypatch.setattr(usage, "held", lambda device: 0)
    sd = model()
    found = memory.footprint(sd, 16)
    each = memory.MARGIN * found.checkpointed * 16 * 16
    pipeline = Pipeline(sd, memory=int(found.scratch + 1.2 * max(each, memory.MARGIN * found.decoded * 256)))
    seen: list[tuple[int, bool]] = []
    attention = sd.unet.attention

    def watched(z: Tensor, *args: Any, **options: Any) -> Any:
        seen.append((len(z), options["checkpoint"]))
        return attention(z, *args, **options)

    monkeypatch.setattr(sd.unet, "attention", watched)
    result = pipeline(PROMPT, method=gentle, seeds=[0, 1, 2], steps=2, output="latent", progress=False, parser="rules")
    assert relative(result.latents, expected.latents) <= 1e-4
    assert max(rows for rows, _ in seen[-9:]) < 3
    assert any(checkpoint for _, checkpoint in seen)


@pytest.mark.slow
def test_checkpointing_by_hand_makes_the_same_picture() -> None:
    options: dict[str, Any] = {"steps": 2, "output": "latent", "progress": False, "parser": "rules"}
    kept, computed = (
        Pipeline(model(), checkpoint=flag)(PROMPT, method=methods.get("ebama"), **options) for flag in (False, True)
    )
    assert relative(computed.latents, kept.latents) <= 1e-5


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_says_in_one_line_what_to_lower(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(sampling, "sample", fail)
    with pytest.raises(MemoryError, match=r"^Memory ran out\. Lower batch_size \(it was 4\).*memory='6GB'") as caught:
        Pipeline(model())(PROMPT, seeds=range(4), batch_size=4, progress=False, parser="rules")
    assert "\n" not in str(caught.value)


def test_advice_is_about_what_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(sampling, "sample", fail)
    monkeypatch.setattr(Pipeline, "_split", lambda *_: memory.Split(2, True, 1))
    with pytest.raises(MemoryError, match=r"batch_size \(it was 2\), or the weights.*memory was 8\.00 GiB"):
        Pipeline(model(), memory="8GB")(PROMPT, seeds=range(4), progress=False, parser="rules")


def test_other_errors_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(sampling, "sample", fail)
    with pytest.raises(RuntimeError, match="something else"):
        Pipeline(model())(PROMPT, progress=False, parser="rules")


@pytest.mark.slow
def test_the_command_line_takes_a_budget(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for size, words in (("1MB", "is too little"), ("much", "expected a size")):
        assert main(["generate", "a red car", "--memory", size, "--out", str(tmp_path)]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
