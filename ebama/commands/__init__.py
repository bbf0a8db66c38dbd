"""The commands of the command line, a file each: `add` declares its arguments; what runs is imported when it runs."""

from . import attention, evaluate, generate, inspect, methods, serve, sheet

COMMANDS = (
    generate,
    attention,
    sheet,
    serve,
    methods,
    evaluate,
    inspect,
)
