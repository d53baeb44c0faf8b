"""Worker processes: one per library, all stopped but the one that is asked.

A library's idle threads go on spinning after a call (OpenBLAS's for 72 ms, ONNX Runtime's for 28 ms) and would slow
whoever is timed next. So every worker is stopped by a signal as soon as it has answered, and a question is asked only
when the CPU time of all the others has stopped growing.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transfuse.bench import libraries, operation

READY_SECONDS = 60.0
QUIET_SECONDS = 2.0


class WorkerError(Exception):
    """A worker did not answer as it should; the text says how."""


class WorkerDied(WorkerError):
    """The worker's process ended."""


class TooSlow(WorkerError):
    """The answer did not come in time."""


class RequestFailed(WorkerError):
    """The library raised an exception; the worker goes on."""


class NotQuiet(Exception):
    """A worker that should stand still uses the CPU."""


class Worker:
    """The parent's side of a worker process, which is running and ready when the constructor returns.

    Parameters
    ----------
    path : str
        The library's class, "module:attribute".
    threads : int
    environment : dict, optional
        Variables on top of this process's and the library's.

    Raises
    ------
    WorkerError
        It did not become ready.
    """

    def __init__(self, path: str, threads: int, environment: dict[str, str] | None = None) -> None:
        library: libraries.Library = operation.find(path)()
        variables = os.environ | library.environment(threads) | (environment or {})
        variables["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 — closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "transfuse.bench.worker", path, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=variables,
            start_new_session=True,  # Ctrl-C is for the parent; and whatever it starts can be stopped with it
        )
        self._answers = selectors.DefaultSelector()
        self._answers.register(self._output, selectors.EVENT_READ)
        self._unread = b""
        try:
            cpus = libraries.pin_to(threads)
            if cpus is not None:
                os.sched_setaffinity(self._process.pid, cpus)
            self.receive(seconds=READY_SECONDS)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process's number, which is that of its group too."""
        return self._process.pid

    @property
    def _output(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def ask(self, do: str, *, seconds: float, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises
        ------
        TooSlow, WorkerDied, RequestFailed
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do} | arguments).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        return self.receive(seconds=seconds)

    def receive(self, *, seconds: float) -> dict[str, Any]:
        """Wait for an answer."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            if not self._answers.select(max(0.0, deadline - time.monotonic())):
                raise TooSlow(f"no answer within {seconds:g} s")
            piece = os.read(self._output, 65536)
            if not piece:
                raise self._death()
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise RequestFailed(answer["failed"])
        return answer

    def _death(self) -> WorkerDied:
        code = self._process.wait()
        reason = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return WorkerDied(f"its process ended ({reason})" + (f": {lines[-1]}" if lines else ""))

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far."""
        clock = (~self.pid << 3) | 2  # clock_getcpuclockid(3): its scheduler clock, in nanoseconds
        try:
            return time.clock_gettime(clock)
        except OSError:  # it has ended
            return 0.0

    def resume(self) -> None:
        """Let it run."""
        self._signal(signal.SIGCONT)

    def pause(self) -> None:
        """Stop all its threads, and wait until they stand still.

        Raises
        ------
        NotQuiet
            One goes on for QUIET_SECONDS.
        """
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + QUIET_SECONDS
        while any(self._is_running(thread) for thread in Path(f"/proc/{self.pid}/task").glob("*")):
            if time.monotonic() > deadline:
                raise NotQuiet(f"process {self.pid} goes on computing though it has been stopped")
            time.sleep(0.0001)

    @staticmethod
    def _is_running(thread: Path) -> bool:
        """A thread is neither stopped nor gone."""
        try:
            return (thread / "stat").read_text().rpartition(")")[2].split()[0] not in "TtZXx"
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def close(self) -> None:
        """End the process and those that it started. What they held is given back to the system."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._answers.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._errors.close()


class Pool:
    """The workers of one thread count, by library; a context manager that ends them all.

    Parameters
    ----------
    paths : dict
        The libraries' classes by name, "module:attribute".
    threads : int
    environments : dict
        Variables for some of them, by name.
    """

    def __init__(self, paths: dict[str, str], threads: int, environments: dict[str, dict[str, str]]) -> None:
        self._paths = paths
        self._threads = threads
        self._environments = environments
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *exception: object) -> None:
        for name in list(self._workers):
            self.drop(name)

    def __contains__(self, name: str) -> bool:
        return name in self._workers

    def start(self, name: str) -> None:
        """Start a worker, in place of the one of that name.

        Raises
        ------
        WorkerError
        """
        self.drop(name)
        self._workers[name] = Worker(self._paths[name], self._threads, self._environments.get(name))
        self._workers[name].pause()

    def drop(self, name: str) -> None:
        """End a worker."""
        if name in self._workers:
            self._workers.pop(name).close()

    def ask(self, name: str, do: str, *, seconds: float, **arguments: Any) -> dict[str, Any]:
        """Ask a worker while all the others are quiet.

        Raises
        ------
        WorkerError, NotQuiet
        """
        with self.alone(name) as worker:
            return worker.ask(do, seconds=seconds, **arguments)

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[Worker]:
        """A worker that runs, while all the others are quiet."""
        worker = self._workers[name]
        self._wait_until_quiet(name)
        worker.resume()
        try:
            yield worker
        finally:
            worker.pause()

    def _wait_until_quiet(self, asked: str) -> None:
        """Wait until the CPU time of none of the others grows."""
        others = {name: worker for name, worker in self._workers.items() if name != asked}
        deadline = time.monotonic() + QUIET_SECONDS
        before = {name: worker.cpu_seconds() for name, worker in others.items()}
        while True:
            time.sleep(0.0002)
            now = {name: worker.cpu_seconds() for name, worker in others.items()}
            if now == before:
                return
            if time.monotonic() > deadline:
                busy = ", ".join(name for name in others if now[name] != before[name])
                raise NotQuiet(f"{busy} goes on computing though it has been stopped")
            before = now
