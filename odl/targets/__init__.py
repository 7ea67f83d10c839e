"""The targets, by name. A new one is a file that describes it, a folder in firmware/port and a line here."""

from __future__ import annotations

from dataclasses import replace

from odl.errors import UsageError
from odl.targets.base import Memory, Simulator, Target
from odl.targets.host import HOST, Host
from odl.targets.pulp import PULP_OPEN, Gvsoc, banks_are_modelled
from odl.targets.qemu import QEMU_ZFH, QEMU_ZHINX, Qemu

__all__ = ["DEFAULT", "HOST", "TARGETS", "Memory", "Simulator", "Target", "find_target", "machine_for", "simulator_for"]

DEFAULT = QEMU_ZHINX
TARGETS: dict[str, Target] = {target.name: target for target in (HOST, QEMU_ZHINX, QEMU_ZFH, PULP_OPEN)}


def find_target(name: str) -> Target:
    """Raises UsageError `unknown-target`, which lists the names."""
    if name not in TARGETS:
        raise UsageError("unknown-target", name, "there is no such target", f"one of: {', '.join(TARGETS)}")
    return TARGETS[name]


def machine_for(target: Target, on: str = "") -> Target:
    """The target to compile for when a program planned for `target` runs on simulator `on` (default: its own).

    Any program runs on the host; that of a team is played there by one core. Raises UsageError `unknown-simulator`.
    """
    if on in ("", target.simulator):
        return target
    if on == HOST.simulator:
        team = (("ODL_CORES", target.cores), ("ODL_PLAYED_TEAM", 1)) if target.cores > 1 else ()
        return replace(HOST, cores=target.cores, defines=team) if team else HOST
    for other in target.elsewhere:
        if on == other.simulator:
            return other
    choices = ", ".join(sorted({target.simulator, HOST.simulator, *(other.simulator for other in target.elsewhere)}))
    raise UsageError("unknown-simulator", on, f"target {target.name} does not run there", f"one of: {choices}")


def simulator_for(target: Target) -> Simulator:
    """What runs programs compiled for `target`."""
    if target.simulator == "gvsoc":
        return Gvsoc(target, banks_are_modelled())
    return Qemu(target) if target.simulator == "qemu" else Host()
