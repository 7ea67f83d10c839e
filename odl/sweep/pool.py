"""Jobs in processes of this machine.

A process of the pool ends itself and its simulators when a pipe closes that the client alone holds open: at a signal,
at a refusal, and also where the client was killed and could tell nobody.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

from odl.errors import ToolError
from odl.sweep.jobs import Inputs, Job, Outcome, work

_ENDED = 128 + signal.SIGTERM

_inputs: Inputs  # of the process of a pool: sent once, not with each job


def in_pool(inputs: Inputs, jobs: Sequence[Job], processes: int = 0) -> Iterator[Outcome]:
    """The outcomes of jobs as they end, some `processes` at once (0: one a core). Raises ToolError `worker-lost`."""
    if not jobs:
        return
    # Not forked: a copy of a process with threads can wait for a lock that nobody holds any more.
    context = multiprocessing.get_context("spawn")
    told, tell = context.Pipe(duplex=False)
    count = min(processes or os.cpu_count() or 1, len(jobs))
    pool = ProcessPoolExecutor(count, context, _begin, (inputs, told))
    try:
        for done in as_completed([pool.submit(_work, job) for job in jobs]):
            yield done.result()
    except BrokenProcessPool as error:
        why = "a process of the pool ended in the middle of a job: it may have taken too much memory"
        hint = "the same command goes on; take fewer processes at once (-j)"
        raise ToolError("worker-lost", "", why, hint) from error
    finally:
        tell.close()
        pool.shutdown(cancel_futures=True)
        told.close()


def _begin(inputs: Inputs, told: Connection) -> None:
    global _inputs
    _inputs = inputs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal's Ctrl-C the client tells, by the pipe
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_listen, args=(told,), daemon=True).start()


def _end(number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the pool sends it again, while blocks are being left
    raise SystemExit(128 + number)


def _listen(told: Connection) -> None:
    told.poll(None)  # nothing is ever sent: it wakes where the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)


def _work(job: Job) -> Outcome:
    try:
        return work(_inputs, job)
    except SystemExit:
        os._exit(_ENDED)  # all blocks are left, and so no simulator runs; the pool would go on with the next job
