"""A sampler and its noise schedule as values of JSON. What is usual goes unsaid, as in recipes from before there was
any choice."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from ebama.samplers import PNDM, NoiseSchedule, Sampler, get, names

from ..checks import expect, is_number

_MOST = 10**5
_UNSAID: dict[str, Any] = {"kind": "scaled_linear", "table": (), "prediction": "epsilon"}
"""The usual values of a schedule's settings that are no numbers."""


def describe_sampler(sampler: Sampler) -> dict[str, Any]:
    """A sampler as `read_sampler` takes it."""
    facts = {"name": type(sampler).__name__.lower(), "steps": sampler.steps, "eta": getattr(sampler, "eta", 0.0)}
    if (order := getattr(sampler, "order", PNDM.order)) != PNDM.order:
        facts["order"] = order
    if sampler.spacing != Sampler.spacing:
        facts["spacing"] = sampler.spacing
    if sampler.custom_timesteps:
        facts["custom_timesteps"] = list(sampler.custom_timesteps)
    if sampler.schedule != NoiseSchedule():
        settings = asdict(sampler.schedule).items()
        facts["schedule"] = {name: value for name, value in settings if value != _UNSAID.get(name)}
    return facts


def read_sampler(stored: object) -> Sampler:
    """The sampler of a description; ValueError, in one line, for what describes none."""
    values: Any = expect("sampler", stored, isinstance(stored, dict), "name, steps and eta")
    name, steps, eta = values.get("name"), values.get("steps"), values.get("eta", 0.0)
    expect("sampler.name", name, name in names(), f"one of {', '.join(names())}")
    expect("sampler.eta", eta, is_number(eta), "a number from 0 to 1")
    timesteps = values.get("custom_timesteps", [])
    fits = isinstance(timesteps, list) and len(timesteps) <= _MOST
    expect("sampler.custom_timesteps", timesteps, fits, f"at most {_MOST} timesteps")
    options = {"eta": eta} if eta else {}
    options |= {name: values[name] for name in ("order", "spacing", "custom_timesteps") if name in values}
    return get(name, steps, schedule=_read_schedule(values.get("schedule", {})), **options)


def _read_schedule(stored: object) -> NoiseSchedule:
    values: Any = _UNSAID | stored if isinstance(stored, dict) else {}
    kind, table, prediction = (values.pop(name, None) for name in _UNSAID)
    known = {entry.name for entry in fields(NoiseSchedule)} - _UNSAID.keys()
    fits = isinstance(stored, dict) and values.keys() <= known and all(map(is_number, values.values()))
    expect("sampler.schedule", stored, fits, f"numbers for {', '.join(sorted(known))}")
    train_steps = values.get("train_steps", NoiseSchedule.train_steps)
    expect("sampler.schedule.train_steps", train_steps, train_steps <= _MOST, f"at most {_MOST}")
    expect("sampler.schedule.kind", kind, isinstance(kind, str), "a name")
    fits = isinstance(table, list | tuple) and len(table) <= _MOST and all(map(is_number, table))
    expect("sampler.schedule.table", table, fits, f"at most {_MOST} numbers")
    expect("sampler.schedule.prediction", prediction, isinstance(prediction, str), "a name")
    return NoiseSchedule(**values, kind=kind, table=tuple(map(float, table)), prediction=prediction)
