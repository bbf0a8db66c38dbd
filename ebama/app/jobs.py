"""One job at a time, in the order in which they came; nothing here knows what a job's work is."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from ..checks import one_line

State = Literal["waiting", "running", "done", "failed", "cancelled"]
MAX_WAITING = 8
MAX_ENDED = 12  # jobs whose pictures can still be had


class Cancelled(Exception):
    """Raised inside a job's work, by `Job.progress`, when somebody cancelled it."""


class QueueFullError(ValueError):
    """More jobs wait than the queue takes."""

    status_code = 429


class NoSuchJobError(LookupError):
    """A job that never was, or is so old that it was dropped."""

    status_code = 404


@dataclass(eq=False)
class Job:
    """Something to do, and how far it is.

    Attributes:
        payload: what is to be done, for the work that does it.
        results: filled while it runs; those of a cancelled or failed job stay.
        doing: the part that runs, in words; `done` of `total` of its steps, `part` of `parts`.
        error: one line, for a job that failed.
    """

    payload: Any
    parts: int = 1
    results: list[Any] = field(default_factory=list)
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    state: State = "waiting"
    doing: str = ""
    part: int = 0
    done: int = 0
    total: int = 0
    error: str = ""
    is_cancelled: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state not in ("waiting", "running")

    def begin(self, doing: str) -> None:
        """The next part starts."""
        self.doing, self.part = doing, self.part + 1
        self.progress(0, 0)

    def progress(self, done: int, total: int) -> None:
        """A listener for `Pipeline(on_call=...)`: what it raises ends the run."""
        self.done, self.total = done, total
        if self.is_cancelled:
            raise Cancelled


class Queue:
    """Runs `work(job)` for one job after the other, in a thread of its own."""

    def __init__(self, work: Callable[[Job], None]) -> None:
        self._work = work
        self._jobs: dict[str, Job] = {}  # in the order in which they came, or ended
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "ebama-jobs")

    def submit(self, job: Job) -> None:
        """Put a job at the end; `QueueFullError` if too many wait."""
        with self._lock:
            if sum(other.state == "waiting" for other in self._jobs.values()) >= MAX_WAITING:
                raise QueueFullError(f"{MAX_WAITING} jobs wait already; try again when one of them is done.")
            self._jobs[job.id] = job
        self._thread.submit(self._run, job)

    def find(self, name: str) -> Job:
        """The job of that id; `NoSuchJobError` if there is none."""
        try:
            return self._jobs[name]
        except KeyError:
            raise NoSuchJobError(f"There is no job {name[:40]!r}; the last {MAX_ENDED} that ended are kept.") from None

    def ahead(self, job: Job) -> int:
        """How many jobs run or wait before this one."""
        with self._lock:
            pending = [other for other in self._jobs.values() if not other.has_ended]
        return pending.index(job) if job in pending else 0

    def cancel(self, job: Job) -> None:
        """A waiting job ends at once, a running one before its next model call; one that has ended stays as it is."""
        with self._lock:
            job.is_cancelled = True
            if job.state == "waiting":
                self._end(job, "cancelled")

    def close(self) -> None:
        """Cancel everything and wait for the thread to end."""
        for job in list(self._jobs.values()):
            self.cancel(job)
        self._thread.shutdown()

    def _run(self, job: Job) -> None:
        with self._lock:
            if job.has_ended:  # cancelled while it waited
                return
            job.state = "running"
        end: State = "failed"
        try:
            self._work(job)
            end = "done"
        except Cancelled:
            end = "cancelled"
        except (ValueError, OSError, ArithmeticError) as error:
            job.error = one_line(error)
        except Exception as error:  # the queue outlives whatever goes wrong in one job
            logging.getLogger(__name__).exception("job %s broke", job.id)
            message = " ".join(str(error).split())[:200]
            job.error = f"Something broke ({type(error).__name__}: {message}); the terminal shows where."
        with self._lock:
            self._end(job, end)

    def _end(self, job: Job, state: State) -> None:
        job.state = state
        self._jobs[job.id] = self._jobs.pop(job.id)  # those that ended stand in the order in which they did
        ended = [name for name, other in self._jobs.items() if other.has_ended]
        for name in ended[:-MAX_ENDED]:
            del self._jobs[name]
