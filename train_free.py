"""The command line: `python train_free.py generate "a purple crown and a blue suitcase"`."""

try:
    from ebama.cli import main
except KeyboardInterrupt:  # before there was anything to stop
    raise SystemExit(130) from None

if __name__ == "__main__":
    raise SystemExit(main())
