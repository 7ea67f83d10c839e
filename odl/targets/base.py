"""What a target is, as data, and what every simulator can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from odl.log import Log
from odl.wire import Job, Record


@dataclass(frozen=True)
class Memory:
    """A memory that the planner may fill."""

    name: str
    n_bytes: int


@dataclass(frozen=True)
class Target:
    """A machine that trains.

    `port` is its folder in firmware/port; files that are not in it come from folder `port_base`, where it has one.
    `isa` and `abi` are RISC-V's names, empty for the machine odl runs on. `stack_bytes` is what the link script sets
    aside. `simulator` is what runs it, and `counter` the unit of a profile, empty where nothing is counted. `defines`
    are the C macros of its builds, the number of `cores` among them where there are several. `elsewhere` are its
    stand-ins on other simulators: the same program and the same bits. `macs_per_cycle` bounds what
    its units can do; 0 where that is not known. `ram_is_open`: it is a simulator's, and larger than any chip's, so
    that to fit there says nothing.
    """

    name: str
    summary: str
    port: str
    isa: str
    abi: str
    memories: tuple[Memory, ...]
    stack_bytes: int
    simulator: str
    counter: str
    cores: int = 1
    defines: tuple[tuple[str, int], ...] = ()
    elsewhere: tuple[Target, ...] = ()
    port_base: str = ""
    macs_per_cycle: float = 0.0
    ram_is_open: bool = False

    @property
    def ports(self) -> tuple[str, ...]:
        """The folders of firmware/port that make up its port; files of a later one replace those of an earlier one."""
        return tuple(folder for folder in (self.port_base, self.port) if folder)

    @property
    def is_riscv(self) -> bool:
        return bool(self.isa)

    @property
    def ram_bytes(self) -> int:
        """The memory named `ram` or `l2`, where the program's variables, its stack and the arena lie."""
        return next((memory.n_bytes for memory in self.memories if memory.name in ("ram", "l2")), 0)

    @property
    def l1_bytes(self) -> int:
        """The memory named `l1`, where a plan may stage tensors; 0 where there is none."""
        return next((memory.n_bytes for memory in self.memories if memory.name == "l1"), 0)

    def resized(self, *, cores: int = 0, ram_bytes: int = 0, l1_bytes: int = 0) -> Target:
        """This machine with other numbers of cores or of bytes, where they are given; its stand-ins likewise."""
        sizes = {"ram": ram_bytes, "l2": ram_bytes, "l1": l1_bytes}
        defines = {name: cores if cores and name == "ODL_CORES" else value for name, value in self.defines}
        return replace(
            self,
            cores=cores or self.cores,
            memories=tuple(Memory(each.name, sizes.get(each.name) or each.n_bytes) for each in self.memories),
            defines=tuple(defines.items()),
            ram_is_open=self.ram_is_open and not ram_bytes,
            elsewhere=tuple(
                each.resized(cores=cores, ram_bytes=ram_bytes, l1_bytes=l1_bytes) for each in self.elsewhere
            ),
        )


def ignore(_record: Record) -> None:
    """The default listener of a run."""


class Simulator(Protocol):
    """Runs programs of one kind of target."""

    def run(
        self,
        elf: Path,
        job: Job,
        *,
        workdir: Path | None = None,
        timeout_s: float = 60.0,
        on_record: Callable[[Record], None] = ignore,
    ) -> Log:
        """Runs `job` and returns its whole log; `on_record` sees each record as soon as the device has written it.

        `workdir` (default: a temporary one) receives job, log and console, and must belong to this run alone.
        `timeout_s` is the longest silence between two records: a run may be long, a step may not. Raises TargetError
        `target-timeout`, `target-crashed`, `target-trap`, `target-stack-overflow` and others named in `simulate.py`,
        `log-...` of `odl.wire`, and ToolError `simulator-missing` or `simulator-too-old`.
        """
