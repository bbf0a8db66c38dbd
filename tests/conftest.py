"""One thread for each process: the tests run in several, and small networks gain nothing from more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
