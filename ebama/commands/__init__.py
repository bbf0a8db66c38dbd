"""The commands of the command line, a file each: `add` declares its arguments; what runs is imported when it runs."""

from . import attention, evaluate, generate, inspect, methods, report, sheet

COMMANDS = (
    generate,
    attention,
    sheet,
    methods,
    evaluate,
    report,
    inspect,
)
