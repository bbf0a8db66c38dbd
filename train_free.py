"""The command line: `python train_free.py generate "a purple crown and a blue suitcase"`."""

from ebama.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
