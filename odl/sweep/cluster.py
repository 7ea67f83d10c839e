"""Jobs on the workers of a Dask cluster, which may be other machines: all goes there and comes back as bytes."""

from __future__ import annotations

import asyncio
import pkgutil
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from importlib import import_module
from typing import Any

from odl.errors import OdlError, ToolError, UsageError
from odl.sweep.jobs import Inputs, Job, Outcome, other_version, refusal, work
from odl.version import VERSION

_PATIENCE_S = 30.0  # for a scheduler's answer, and for the first worker
_LARGE = "distributed.admin.large-graph-warning-threshold"


def on_cluster(inputs: Inputs, jobs: Sequence[Job], address: str, patience_s: float = _PATIENCE_S) -> Iterator[Outcome]:
    """The outcomes of jobs as they end, on all workers of the scheduler at `address`.

    A job whose worker dies is done again by another; one that several die of is refused, `worker-lost`. Where this
    ends early, jobs that no worker has begun are cancelled. Raises ToolError `dask-missing`, `scheduler-unreachable`
    or `worker-version`, and UsageError `scheduler-address`.
    """
    distributed = _distributed()
    if not jobs:
        return
    with _client(distributed, address, patience_s) as client:
        _require_workers(client, address, patience_s)
        # As the result of a task the inputs are computed again where the worker that holds them dies; scattered ones
        # would be lost with it.
        with import_module("dask").config.set({_LARGE: "64 GiB"}):
            shared = client.submit(_same, inputs, pure=False)
        futures = {client.submit(work, shared, job, pure=False): job for job in jobs}
        try:
            for done in distributed.as_completed(list(futures), loop=client.loop):
                yield _outcome(distributed, done, futures[done], address)
                done.release()  # what it holds of a worker's memory
        finally:
            client.cancel([*futures, shared])


def require_dask() -> None:
    """Raises ToolError `dask-missing`."""
    _distributed()


def _distributed() -> Any:
    try:
        return import_module("distributed")
    except ImportError as error:
        hint = "pip install 'odl[sweep]', or leave out --scheduler: a pool of processes does the jobs here"
        raise ToolError("dask-missing", "--scheduler", f"needs the package distributed: {error}", hint) from error


def _client(distributed: Any, address: str, patience_s: float) -> Any:
    hint = "dask scheduler prints its address when it starts, such as tcp://192.0.2.1:8786"
    try:
        return distributed.Client(address, timeout=patience_s, set_as_default=False)
    except OSError as error:  # also for a time limit
        why = f"no scheduler answers there within {patience_s:g} s"
        raise ToolError("scheduler-unreachable", address, why, hint) from error
    except (ValueError, TypeError) as error:
        raise UsageError("scheduler-address", address, f"is no address of a scheduler: {error}", hint) from error


def _require_workers(client: Any, address: str, patience_s: float) -> None:
    """That there are some, each with this odl. What is asked of them is Python's own: they may have no odl at all."""
    try:
        client.wait_for_workers(1, timeout=patience_s)
    except TimeoutError as error:
        why = f"the scheduler has no worker within {patience_s:g} s"
        raise ToolError("scheduler-unreachable", address, why, f"dask worker {address}") from error
    found = client.run(pkgutil.resolve_name, "odl.version:VERSION", on_error="return")
    wrong = [
        other_version(worker, "that cannot be imported" if isinstance(version, Exception) else version, VERSION)
        for worker, version in sorted(found.items())
        if version != VERSION
    ]
    if wrong:
        raise ToolError.of(problem for error in wrong for problem in error.problems)


def _same(inputs: Inputs) -> Inputs:
    return inputs


def _outcome(distributed: Any, done: Any, job: Job, address: str) -> Outcome:
    try:
        outcome: Outcome = done.result()
        return outcome
    except distributed.KilledWorker as error:
        why = f"{error.allowed_failures + 1} workers died of it, one after the other"
        return Outcome(job.name, {}, refusal(_lost(job.name, why)))
    except (CancelledError, asyncio.CancelledError) as error:
        why = "the scheduler has ended, or forgot the jobs"
        raise ToolError("scheduler-unreachable", address, why, "the same command goes on") from error


def _lost(name: str, why: str) -> OdlError:
    return ToolError("worker-lost", name, why, "it may take too much memory: see the logs of the workers")
