"""`odl sweep --scheduler`: on a real Dask cluster of two workers, with the bytes of a pool; and when it is ill."""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import odl
from test_cli_process import process
from test_sweep import contents, save_grid, words

from odl.errors import ExitCode, OdlError
from odl.recipe import Recipe
from odl.sweep import cluster, sweeping
from odl.sweep.grid import points_of
from odl.sweep.jobs import Inputs, Job, Outcome

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 120
LONG = 200  # steps that take long enough to be seen under way


@pytest.fixture(scope="module")
def distributed() -> Any:
    return pytest.importorskip("distributed", reason="Dask is not here: pip install 'odl[sweep]'")


@pytest.fixture(scope="module")
def dask(distributed: Any) -> Iterator[Any]:
    """A cluster of two workers, processes of one thread, which import the odl of this tree."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=":0"
        ) as found:
            yield found
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four points, one of which is refused by a worker."""
    text = 'target = "qemu-zhinx"\nlr = [0.05, 0.1]\nmomentum = 0.9\nram = ["9K", "1M"]'
    return save_grid(tmp_path_factory.mktemp("grid") / "grid.toml", text)


@pytest.fixture(scope="module")
def pooled(model: Path, data: Path, grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep in a pool of processes."""
    folder = tmp_path_factory.mktemp("pooled") / "out"
    assert odl(*words(model, data, grid, folder, LONG)).exit_code == 0
    return folder


def on(dask: Any, command: list[object]) -> list[object]:
    """The command, on the cluster in place of a pool."""
    at = command.index("-j")
    return [*command[:at], "--scheduler", dask.scheduler_address, *command[at + 2 :]]


def under_way(client: Any) -> list[str]:
    """The workers that have a job."""
    return [worker for worker, keys in client.processing().items() if any("work" in key for key in keys)]


def by(limit_s: float, question: Callable[[], object]) -> bool:
    """Whether the answer is yes within a time."""
    deadline = time.monotonic() + limit_s
    while not question():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_cluster_gives_the_bytes_of_a_pool(
    dask: Any, pooled: Path, model: Path, data: Path, grid: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = odl(*on(dask, words(model, data, grid, out, LONG)))
    assert result.exit_code == 0, result.output
    assert contents(out) == contents(pooled)
    codes = [each["refused"] for each in json.loads((out / "sweep.json").read_text())["points"]]
    assert [bool(code) for code in codes] == [True, False, True, False]
    assert codes[0]["problems"][0]["code"] == "does-not-fit"
    again = odl(*on(dask, words(model, data, grid, out, LONG)))
    assert again.stderr.count("done before") == 2
    assert contents(out) == contents(pooled)


def test_a_worker_that_is_killed_changes_nothing(
    dask: Any, distributed: Any, pooled: Path, model: Path, data: Path, grid: Path, tmp_path: Path
) -> None:
    """In the middle of a job, which another worker does again."""
    out = tmp_path / "out"
    with (
        distributed.Client(dask.scheduler_address, set_as_default=False) as client,
        process(*on(dask, words(model, data, grid, out, LONG)), stderr=subprocess.PIPE) as child,
    ):
        pids = client.run(os.getpid)
        assert by(LIMIT_S, lambda: under_way(client)), "no job was seen under way"
        victim = under_way(client)[0]
        time.sleep(0.2)
        os.kill(pids[victim], signal.SIGKILL)
        child.communicate(timeout=LIMIT_S)
        assert child.returncode == 0
        client.wait_for_workers(2, timeout=LIMIT_S)  # the nanny has started another
        assert set(client.run(os.getpid).values()) != set(pids.values())
    assert contents(out) == contents(pooled)


def test_a_signal_ends_the_client_and_takes_its_jobs_back(
    dask: Any, distributed: Any, model: Path, data: Path, grid: Path, tmp_path: Path
) -> None:
    command = on(dask, words(model, data, grid, tmp_path / "out", 5_000))
    with (
        distributed.Client(dask.scheduler_address, set_as_default=False) as client,
        process(*command, stderr=subprocess.PIPE) as child,
    ):
        assert by(LIMIT_S, lambda: under_way(client)), "no job was seen under way"
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=LIMIT_S)
        assert child.returncode == 130
        assert by(LIMIT_S, lambda: not under_way(client))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["grid.toml"]


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(runner: Any) -> OdlError:
    with pytest.raises(OdlError) as caught:
        list(runner)
    return caught.value


@pytest.fixture
def one(model: Path, data: Path) -> tuple[Inputs, tuple[Job, ...]]:
    wanted = sweeping.plan(model, data, data, points_of({"lr": 0.1}, "grid", Recipe()), 1, "numpy")
    return wanted.inputs, wanted.jobs


def test_workers_of_another_odl_are_refused(
    dask: Any, one: tuple[Inputs, tuple[Job, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "VERSION", "99.0")
    error = refused(cluster.on_cluster(*one, dask.scheduler_address))
    assert error.exit_code == ExitCode.TOOL_MISSING
    assert [problem.code for problem in error.problems] == ["worker-version"] * 2
    assert "this is 99.0" in str(error)


def test_workers_without_odl_are_refused() -> None:
    def run(function: Any, what: str, on_error: str) -> dict[str, Any]:
        assert (function, what, on_error) == (pkgutil.resolve_name, "odl.version:VERSION", "return")
        return {"tcp://a:1": ModuleNotFoundError("No module named 'odl'"), "tcp://b:2": cluster.VERSION}

    client = SimpleNamespace(run=run, wait_for_workers=lambda _n, timeout: timeout)
    with pytest.raises(OdlError, match="worker-version: tcp://a:1: has odl that cannot be imported") as caught:
        cluster._require_workers(client, "tcp://a:0", 1)
    assert len(caught.value.problems) == 1


def test_a_scheduler_without_workers_is_refused(distributed: Any, one: tuple[Inputs, tuple[Job, ...]]) -> None:
    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0") as empty:
        error = refused(cluster.on_cluster(*one, empty.scheduler_address, patience_s=1))
    assert (error.code, error.exit_code) == ("scheduler-unreachable", ExitCode.TOOL_MISSING)


@pytest.mark.parametrize(
    ("address", "code"),
    [("tcp://127.0.0.1:1", "scheduler-unreachable"), ("moon://1", "scheduler-address"), ("1:2:3", "scheduler-address")],
)
@pytest.mark.usefixtures("distributed")
def test_an_address_that_is_none(address: str, code: str, one: tuple[Inputs, tuple[Job, ...]]) -> None:
    assert refused(cluster.on_cluster(*one, address, patience_s=1)).code == code


def test_a_job_that_workers_die_of_is_a_row(distributed: Any, one: tuple[Inputs, tuple[Job, ...]]) -> None:
    error = distributed.KilledWorker("key", SimpleNamespace(address="tcp://a:1"), 3)

    def result() -> Outcome:
        raise error

    _, (job,) = one
    outcome = cluster._outcome(distributed, SimpleNamespace(result=result), job, "tcp://a:0")
    assert outcome.refused
    (problem,) = outcome.refused["problems"]
    assert (outcome.name, problem["code"], outcome.refused["exit_code"]) == (job.name, "worker-lost", 5)
    assert "4 workers" in problem["why"]


def test_without_the_package_it_is_refused_at_once(
    model: Path, data: Path, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    command = words(model, data, grid, tmp_path / "out", 1)
    result = odl(*command, "--scheduler", "tcp://127.0.0.1:8786")
    assert result.exit_code == ExitCode.TOOL_MISSING
    assert "dask-missing" in result.stderr
    assert "pip install 'odl[sweep]'" in result.stderr
    assert not (tmp_path / "out").exists()
