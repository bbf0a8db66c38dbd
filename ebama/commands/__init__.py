"""The commands of the command line, a file each: `add` declares its arguments; what runs is imported when it runs."""

from . import attention, bench, evaluate, generate, inspect, methods, report, serve, sheet

COMMANDS = (
    generate,
    attention,
    sheet,
    serve,
    methods,
    evaluate,
    report,
    inspect,
    bench,
)
