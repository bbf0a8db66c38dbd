"""The commands of the command line, a file each: `add` declares its arguments; what runs is imported when it runs."""

from . import evaluate, generate, inspect, methods

COMMANDS = (
    generate,
    methods,
    evaluate,
    inspect,
)
