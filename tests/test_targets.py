"""Whole runs of a small hand-written model: what comes back, and what every way of going wrong is called."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_project as tiny
from tiny_project import MODEL_ID, TinyModel, Workshop

from odl import toolchain, wire
from odl.errors import OdlError, TargetError, ToolError, UsageError
from odl.log import Log
from odl.targets import TARGETS, Target, find_target, machine_for, pulp, qemu, simulate, simulator_for
from odl.wire import VERSION, Job, Loss, Record

HOST = TARGETS["host"]
ZHINX = TARGETS["qemu-zhinx"]
PULP = TARGETS["pulp-open"]
QEMU = [
    pytest.param(target, marks=pytest.mark.qemu, id=target.name)
    for target in (ZHINX, TARGETS["qemu-zfh"], pulp.PULP_QEMU)
]
NO_GVSOC = pytest.mark.skipif(not pulp.find_gvsoc(), reason="GVSoC is not here: set ODL_GVSOC")
GVSOC = [pytest.param(PULP, marks=[pytest.mark.gvsoc, NO_GVSOC], id="gvsoc")]
SIMULATED = [*QEMU, *GVSOC]
EVERY = [pytest.param(HOST, id="host"), *SIMULATED]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def run(workshop: Workshop) -> Callable[..., Log]:
    def run(target: Target, job: Job, *, trace: bool = True, timeout_s: float = 20, **defines: object) -> Log:
        program = workshop.build(target, trace=trace, **defines)
        return simulator_for(target).run(program.elf, job, timeout_s=timeout_s)

    return run


def job(n: int = 9, **wishes: object) -> Job:
    x, labels = tiny.samples(n)
    return replace(Job(MODEL_ID, x, labels), **wishes)  # type: ignore[arg-type]


def faulty(which: int) -> Job:
    """Three good steps, then one that goes wrong."""
    x, labels = tiny.samples(4)
    x[3, 0] = which
    return Job(MODEL_ID, x, labels)


def refusal(call: Callable[[], object]) -> OdlError:
    with pytest.raises(OdlError) as caught:
        call()
    return caught.value


# --- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", EVERY)
def test_training_gives_numpys_bits(target: Target, run: Callable[..., Log]) -> None:
    wanted = job(hashes=True, weights=True, dump=(5, 3))
    log = run(target, wanted)
    model = TinyModel()
    steps = list(model.run(wanted))
    assert tiny.canonical(log.losses) == b"".join(tiny.canonical(loss) for loss, _ in steps)
    assert log.hashes.tolist() == [[tiny.crc(data) for data in traced] for _, traced in steps]
    assert log.tensor == steps[5][1][3]
    w, b = (np.frombuffer(data, np.float16) for data in log.weights)
    assert tiny.canonical(w) == tiny.canonical(model.w)
    assert b.tolist() == [0.5]
    assert np.isnan(log.losses[-1])
    n_counters = 6 if target.counter == "cycles" else 1  # with cycles come instructions, stalls and waits
    assert log.boot == wire.Boot(MODEL_ID, 64, tiny.N_TRACED, tiny.N_CALLS, n_counters, 2, 6, 0)


@pytest.mark.parametrize("target", EVERY)
def test_integer_tensors_are_dumped_as_they_are(target: Target, run: Callable[..., Log]) -> None:
    assert run(target, job(dump=(4, 2))).tensor == b"\5\0\0\0"


@pytest.mark.parametrize("target", EVERY)
def test_a_tensor_whose_call_does_not_run_is_not_dumped(target: Target, run: Callable[..., Log]) -> None:
    assert run(target, job(dump=(4, 3))).tensor is None


@pytest.mark.parametrize("target", EVERY)
def test_targets_may_be_real_numbers(target: Target, run: Callable[..., Log]) -> None:
    targets = np.random.default_rng(2).normal(size=(9, 3)).astype(np.float16)
    wanted = job(targets=targets, hashes=True)
    log = run(target, wanted, ODL_TARGET_IS_LABEL=0)
    assert log.hashes.tolist() == [[tiny.crc(data) for data in traced] for _, traced in TinyModel().run(wanted)]


@pytest.mark.parametrize("target", EVERY)
def test_inference_starts_from_the_given_weights(target: Target, run: Callable[..., Log]) -> None:
    w = np.array([0.25, -1.5, 3], np.float16)
    wanted = job(targets=None, initial=(w.tobytes(), b"\0\0"), weights=True, hashes=True)
    log = run(target, wanted)
    with np.errstate(all="ignore"):
        expected = tiny.canonical(wanted.samples * w)
    assert log.outputs.tobytes() == expected
    assert log.weights == wanted.initial
    assert log.hashes[:, 4].tolist() == [tiny.crc(expected[at : at + 6]) for at in range(0, len(expected), 6)]
    assert not log.hashes[:, :4].any()


@pytest.mark.parametrize("target", SIMULATED)
def test_runs_repeat_exactly(target: Target, run: Callable[..., Log]) -> None:
    wanted = job(profile=True, hashes=True)
    first, second = (run(target, wanted) for _ in range(2))
    assert first.profile.tolist() == second.profile.tolist()
    assert (first.hashes == second.hashes).all()
    assert first.stack_bytes == second.stack_bytes


@pytest.mark.parametrize("target", QEMU)
def test_the_profile_counts_kernels_and_not_the_looking(target: Target, run: Callable[..., Log]) -> None:
    """Call 2 runs in every second step; hashing between the calls must not show."""
    plain, hashed = (run(target, job(profile=True, hashes=hashes)).profile for hashes in (False, True))
    assert (plain == hashed).all()
    assert (plain[0::2, 2] == 0).all()
    assert (plain[1::2, 2] > 20).all()
    assert (plain[:, :2] > 20).all()
    assert (plain < 200).all()


@pytest.mark.parametrize("target", SIMULATED)
def test_the_stack_is_measured(target: Target, run: Callable[..., Log]) -> None:
    assert 50 < run(target, job()).stack_bytes < 2000


@pytest.mark.parametrize("target", EVERY)
def test_a_program_without_tracing_trains_the_same(target: Target, run: Callable[..., Log]) -> None:
    plain = run(target, job(), trace=False)
    assert tiny.canonical(plain.losses) == tiny.canonical(run(target, job()).losses)
    assert (plain.boot.n_traced, plain.boot.n_calls) == (0, 0)


@pytest.mark.parametrize("target", EVERY)
def test_records_arrive_while_the_program_runs(target: Target, workshop: Workshop) -> None:
    """999 steps, then one that never ends: all 999 losses have been heard by the time it is given up."""
    x, labels = tiny.samples(1000)
    x[999, 0] = tiny.HANG
    heard: list[Record] = []
    simulator, elf = simulator_for(target), workshop.build(target).elf
    patience_s = 8 if target is PULP else 0.5  # GVSoC takes a second to start, and several where others work too
    error = refusal(lambda: simulator.run(elf, Job(MODEL_ID, x, labels), timeout_s=patience_s, on_record=heard.append))
    assert error.code == "target-timeout"
    assert [record.step for record in heard if isinstance(record, Loss)] == list(range(999))


# --- what goes wrong on the target ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", QEMU)
@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (tiny.READ_NULL, "target-trap", ["load access fault in tiny_fault+0x", "address 0x00000000"]),
        (tiny.ILLEGAL_INSTRUCTION, "target-trap", ["illegal instruction in tiny_fault+0x", "instruction 0xffffffff"]),
        (tiny.RECURSE, "target-stack-overflow", ["store access fault in recurse+0x", "stack ran out"]),
    ],
)
def test_a_trap_names_its_cause_and_place(
    target: Target, fault: int, code: str, words: list[str], run: Callable[..., Log]
) -> None:
    error = refusal(lambda: run(target, faulty(fault)))
    assert (type(error), error.code) == (TargetError, code)
    assert all(word in str(error) for word in words), str(error)


@pytest.mark.parametrize("target", GVSOC)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (tiny.ILLEGAL_INSTRUCTION, ["illegal instruction in tiny_fault+0x", "instruction 0xffffffff, sp 0x1000"]),
        (tiny.RECURSE, ["went on after a store access fault in recurse+0x", "address 0x0fff"]),
    ],
)
def test_a_cluster_that_traps_says_where(target: Target, fault: int, words: list[str], run: Callable[..., Log]) -> None:
    error = refusal(lambda: run(target, faulty(fault)))
    assert (type(error), error.code) == (TargetError, "target-trap")
    assert all(word in str(error) for word in words), str(error)


@pytest.mark.parametrize("fault", [tiny.READ_NULL, tiny.RECURSE])
def test_a_crash_on_the_host_names_its_signal(fault: int, run: Callable[..., Log]) -> None:
    error = refusal(lambda: run(HOST, faulty(fault)))
    assert (type(error), error.code) == (TargetError, "target-crashed")
    assert "SIGSEGV" in str(error)


@pytest.mark.parametrize("target", SIMULATED)
def test_a_stack_that_touches_its_guard_is_noticed_without_a_trap(target: Target, run: Callable[..., Log]) -> None:
    n_bytes = (run(target, job()).stack_bytes + 16) & ~15
    error = refusal(lambda: run(target, job(), ODL_STACK_BYTES=n_bytes))
    assert error.code == "target-stack-overflow"
    assert "cause" not in str(error)


@pytest.mark.parametrize("target", EVERY)
def test_a_kernel_that_hangs_is_ended_by_the_watchdog(target: Target, run: Callable[..., Log]) -> None:
    error = refusal(lambda: run(target, faulty(tiny.HANG), ODL_WATCHDOG_MS=20))
    assert isinstance(error, TargetError)
    assert (error.code, error.step, error.call) == ("target-watchdog", 3, 0)


@pytest.mark.parametrize("target", EVERY)
def test_a_watchdog_is_patient_with_what_gets_on(target: Target, run: Callable[..., Log]) -> None:
    """Each looks many times in a run of so many steps."""
    steps = job(200 if target.simulator == "gvsoc" else 4000, weights=True)
    logs = [run(target, steps, **patience) for patience in ({}, {"ODL_WATCHDOG_MS": 1})]
    assert logs[0].losses.tobytes() == logs[1].losses.tobytes()
    assert logs[0].weights == logs[1].weights


@pytest.mark.parametrize("target", EVERY)
@pytest.mark.parametrize("fault", [tiny.UNDERRUN, tiny.OVERRUN])
def test_a_write_next_to_the_arena_is_noticed(target: Target, fault: int, run: Callable[..., Log]) -> None:
    error = refusal(lambda: run(target, faulty(fault)))
    assert error.code == "target-arena-overrun"
    assert "step 3" in str(error)


@pytest.mark.parametrize("target", [HOST, *SIMULATED])
def test_a_trap_says_in_which_step_and_call(target: Target, run: Callable[..., Log]) -> None:
    error = refusal(lambda: run(target, faulty(tiny.ILLEGAL_INSTRUCTION)))
    assert isinstance(error, TargetError)
    assert (error.step, error.call) == (3, 0)


@pytest.mark.parametrize("target", EVERY)
@pytest.mark.parametrize("label", [-1, 3])
def test_a_bad_label_is_refused_with_its_step(target: Target, label: int, run: Callable[..., Log]) -> None:
    labels = np.array([0, 1, label, 2])
    error = refusal(lambda: run(target, job(4, targets=labels)))
    assert error.code == "bad-label"
    assert "step 2" in str(error)


@pytest.mark.parametrize("target", EVERY)
def test_a_job_for_another_program_is_refused(target: Target, run: Callable[..., Log]) -> None:
    assert refusal(lambda: run(target, job(model_id=MODEL_ID + 1))).code == "target-other-model"


@pytest.mark.parametrize("target", EVERY)
@pytest.mark.parametrize("wish", [{"hashes": True}, {"dump": (0, 0)}])
def test_tracing_needs_a_program_built_for_it(target: Target, wish: dict[str, object], run: Callable[..., Log]) -> None:
    assert refusal(lambda: run(target, job(**wish), trace=False)).code == "target-no-trace"


@pytest.mark.parametrize("target", EVERY)
@pytest.mark.parametrize(
    "wish",
    [
        pytest.param({"initial": (b"\0" * 6,)}, id="a weight too few"),
        pytest.param({"samples": np.zeros((9, 5), np.float16)}, id="samples of another shape"),
        pytest.param({"targets": np.zeros((9, 3), np.float16)}, id="targets of another kind"),
        pytest.param({"dump": (0, tiny.N_TRACED)}, id="no such tensor"),
    ],
)
def test_a_job_of_another_shape_is_refused(target: Target, wish: dict[str, object], run: Callable[..., Log]) -> None:
    assert refusal(lambda: run(target, job(**wish))).code == "target-bad-job"


@pytest.mark.parametrize("target", EVERY)
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:0], id="empty"),
        pytest.param(lambda data: data[:43], id="header cut"),
        pytest.param(lambda data: data[:5] + b"\7" + data[6:], id="header changed"),
        pytest.param(lambda data: data[:-6], id="items cut"),
        pytest.param(lambda data: data[:80] + bytes([data[80] ^ 4]) + data[81:], id="item changed"),
        pytest.param(lambda data: data[:-1] + bytes([data[-1] ^ 1]), id="checksum changed"),
    ],
)
def test_a_damaged_job_is_refused(
    target: Target, damage: Callable[[bytes], bytes], run: Callable[..., Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = wire.write_job

    def write_damaged(path: Path, wanted: Job) -> None:
        write(path, wanted)
        path.write_bytes(damage(path.read_bytes()))

    monkeypatch.setattr(wire, "write_job", write_damaged)
    assert refusal(lambda: run(target, job())).code == "target-bad-job"


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("harm", "check"),
    [
        pytest.param("-ffp-contract=fast", 1, id="contraction"),
        pytest.param("-DROUND_TO=3", 4, id="rounding up"),
    ],
)
def test_the_self_test_sees_other_arithmetic(
    harm: str, check: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tiny.write_project(tmp_path / "project", ZHINX)
    start = project / "port" / "start.S"
    start.write_text(start.read_text().replace("csrw    fcsr, zero", "csrwi   frm, ROUND_TO"))
    flags = tuple(harm if flag == "-ffp-contract=off" else flag for flag in toolchain._FLAGS)
    monkeypatch.setattr(toolchain, "_FLAGS", ("-DROUND_TO=0", *flags, *([harm] if harm.startswith("-D") else [])))
    monkeypatch.setattr(toolchain, "_WARNINGS", ("-Wno-macro-redefined",))
    elf = toolchain.compile_project(project, ZHINX, toolchain.find_toolchain(ZHINX)).elf
    error = refusal(lambda: simulator_for(ZHINX).run(elf, job()))
    assert error.code == "target-arithmetic"
    assert f"check {check} " in str(error)


# --- what goes wrong around it ----------------------------------------------------------------------------------------


def pretend(script: str, workdir: Path, *, timeout_s: float = 20) -> OdlError:
    """The refusal of a program that is a few lines of Python; `log` is the file it writes, `good` a whole log."""
    prelude = """
        import struct, sys, time, zlib
        def record(tag, payload, step=0):
            head = struct.pack("<4I", tag, step, 0, len(payload)) + payload
            return head + struct.pack("<I", zlib.crc32(head))
        def words(*values):
            return struct.pack(f"<{len(values)}I", *values)
        boot = record(0x544F4F42, words(%d, %d, 64, 5, 4, 1, 2, 6))
        tags = 0x53534F4C, 0x4E554F43, 0x4B415453, 0x20444E45
        good = boot + b"".join(record(tag, words(0)) for tag in tags)
        log = open("log.bin", "wb", buffering=0)
    """
    text = textwrap.dedent(prelude) % (VERSION, MODEL_ID) + textwrap.dedent(script)
    program = workdir / "program.py"
    program.write_text(text)
    return refusal(
        lambda: simulate.simulate([sys.executable, str(program)], program, job(1), workdir, timeout_s, lambda _: None)
    )


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        pytest.param("log.write(good[:-5])", "log-truncated", "inside a record", id="cut"),
        pytest.param("log.write(boot)", "log-truncated", "no END", id="no end"),
        pytest.param("", "log-truncated", "no END", id="nothing"),
        pytest.param("log.write(good[:54] + b'?' + good[55:])", "log-garbled", "byte 52", id="garbled"),
        pytest.param("log.write(boot + b'?' * 99); time.sleep(99)", "log-garbled", "byte 52", id="garbled and alive"),
        pytest.param("log.write(good.replace(good[52:76], b''))", "log-incomplete", "Loss", id="a loss too few"),
        pytest.param("print('ouch'); sys.exit(3)", "target-crashed", "exit status 3\n  | ouch", id="failed"),
        pytest.param("log.write(good); sys.exit(3)", "target-crashed", "exit status 3", id="failed after the end"),
        pytest.param("sys.exit(70)", "target-io", "could not write", id="a status of its own"),
        pytest.param("log.write(boot); time.sleep(99)", "target-timeout", "0.5 s", id="hung"),
    ],
)
def test_a_program_that_misbehaves_is_named(script: str, code: str, words: str, tmp_path: Path) -> None:
    started = time.monotonic()
    error = pretend(script, tmp_path, timeout_s=0.5 if code == "target-timeout" else 20)
    assert (type(error), error.code) == (TargetError, code)
    assert words in str(error)
    assert time.monotonic() - started < 10


def test_a_program_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    (tmp_path / "runner").write_text("not a program")
    assert refusal(lambda: simulator_for(HOST).run(tmp_path / "runner", job())).code == "target-crashed"


def test_the_pretended_program_can_do_well(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception):
        pretend("log.write(good)", tmp_path)


def children(pid: int) -> Iterator[int]:
    for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(word)


@pytest.mark.parametrize("target", EVERY)
def test_ctrl_c_leaves_no_child(target: Target, workshop: Workshop) -> None:
    elf = workshop.build(target).elf
    script = f"""
        import numpy as np
        from pathlib import Path
        from odl.targets import TARGETS, simulator_for
        from odl.wire import Job
        x = np.full((1, 3), {tiny.HANG}, np.float16)
        job = Job({MODEL_ID}, x, np.zeros(1, int))
        targets = (*TARGETS.values(), *TARGETS["pulp-open"].elsewhere)
        simulator = simulator_for(next(target for target in targets if target.name == {target.name!r}))
        simulator.run(Path({str(elf)!r}), job, on_record=lambda _: print("up", flush=True))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "up\n"
        (child,) = children(parent.pid)
        parent.send_signal(signal.SIGINT)
        parent.wait(10)
        assert parent.stderr
        assert "KeyboardInterrupt" in parent.stderr.read()
    assert not Path(f"/proc/{child}").exists()


def fake_qemu(folder: Path, version: str) -> Path:
    program = folder / qemu.PROGRAM
    program.write_text(f"#!/bin/sh\necho 'QEMU emulator version {version}'\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("version", "code"), [(None, "simulator-missing"), ("6.2.0", "simulator-too-old"), ("?", "simulator-missing")]
)
def test_a_missing_simulator_is_named(
    version: str | None, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ODL_QEMU", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    if version:
        fake_qemu(tmp_path, version).write_text(f"#!/bin/sh\necho 'QEMU emulator version {version}'\n")
    error = refusal(lambda: simulator_for(ZHINX).run(tmp_path / "runner.elf", job()))
    assert (type(error), error.code) == (ToolError, code)
    assert "apt-get install" in str(error)


@pytest.mark.parametrize(
    ("version", "zhinx", "zfh"),
    [
        ((7, 2, 22), "rv32,zfinx=on,zhinx=on,f=off,d=off", "rv32,Zfh=on"),
        ((8, 1, 0), "rv32,zfinx=on,zhinx=on,f=off,d=off,Zfa=off", "rv32,Zfh=on"),
        ((8, 2, 0), "rv32,zfinx=on,zhinx=on,f=off,d=off,zfa=off", "rv32,zfh=on"),
    ],
)
def test_qemus_cpu_follows_its_version(version: tuple[int, ...], zhinx: str, zfh: str) -> None:
    assert qemu.cpu(ZHINX, version) == zhinx
    assert qemu.cpu(TARGETS["qemu-zfh"], version) == zfh


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    error = refusal(lambda: find_target("z80"))
    assert (type(error), error.code) == (UsageError, "unknown-target")
    assert all(name in str(error) for name in TARGETS)


def test_every_program_runs_on_the_host_and_on_its_own_simulator() -> None:
    assert machine_for(ZHINX) is machine_for(ZHINX, "qemu") is ZHINX
    assert machine_for(ZHINX, "host") is machine_for(HOST) is HOST
    assert refusal(lambda: machine_for(ZHINX, "gvsoc")).code == "unknown-simulator"


def test_a_cluster_is_played_where_it_is_not_simulated() -> None:
    assert machine_for(PULP) is machine_for(PULP, "gvsoc") is PULP
    assert isinstance(simulator_for(PULP), pulp.Gvsoc)
    assert isinstance(simulator_for(machine_for(PULP, "qemu")), qemu.Qemu)
    for on in ("qemu", "host"):
        machine = machine_for(PULP, on)
        assert machine.simulator == on
        assert {("ODL_CORES", 8), ("ODL_PLAYED_TEAM", 1)} <= set(machine.defines)
    assert refusal(lambda: machine_for(PULP, "spike")).problems[0].hint == "one of: gvsoc, host, qemu"


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ("gvrun", "gvrun"), ("built", "built/install/bin/gvrun"), ("built/install", "built/install/bin/gvrun"),
        ("built/install/bin/gvsoc", "built/install/bin/gvrun"), ("alone/gvsoc", "alone/gvsoc"), ("empty", None),
        ("missing", None), ("", "path/gvrun"), ("path", "path/gvrun"),
    ],
)  # fmt: skip
def test_gvsoc_is_found(chosen: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gvrun", "built/install/bin/gvrun", "built/install/bin/gvsoc", "alone/gvsoc", "path/gvrun"):
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("ODL_GVSOC", str(tmp_path / chosen) if chosen else "")
    assert pulp.find_gvsoc() == (tmp_path / found if found else None)
    if not found:
        error = refusal(lambda: simulator_for(PULP).run(tmp_path / "runner.elf", job()))
        assert (type(error), error.code) == (ToolError, "simulator-missing")
        looked = {"empty": "where there is no gvrun", "missing": "which is no program"}[chosen]
        assert f"gvrun: ODL_GVSOC is {tmp_path / chosen}, {looked}\n" in str(error)
        assert str(error).endswith("; or --on qemu: the same bits, without cycles, which tune needs")


@pytest.mark.gvsoc
@NO_GVSOC
def test_banks_of_l1_may_be_modelled(workshop: Workshop, tmp_path: Path) -> None:
    for conflicts in (False, True):
        workdir = tmp_path / str(conflicts)
        log = pulp.Gvsoc(PULP, conflicts).run(workshop.build(PULP).elf, job(), workdir=workdir)
        assert len(log.losses) == 9
        assert (workdir / "gvsoc_config.json").read_text().count('"width_bits": 2') == (16 if conflicts else 0)


def test_the_host_refuses_to_profile(run: Callable[..., Log]) -> None:
    assert refusal(lambda: run(HOST, job(profile=True))).code == "no-counter"


def test_a_run_keeps_its_files_where_it_is_told(workshop: Workshop, tmp_path: Path) -> None:
    workdir = tmp_path / "deep" / "run"
    simulator_for(HOST).run(workshop.build(HOST).elf, job(), workdir=workdir)
    assert sorted(path.name for path in workdir.iterdir()) == ["console.txt", "job.bin", "log.bin"]
