"""python -m campaigns.reproduce [--python PROGRAM ...]: the same bytes again, elsewhere.

Compiles an example for each target and notes the SHA-256 of the generated project, of the ELF file and of what `odl
check`, `plan` and `run` say as JSON, and of the page of `odl report`. Does it again in other processes, each in a
folder of its own with a cache of its own: with another hash seed, and with each Python that is given. Prints what is
the same, and writes campaigns/reproduce.json, against which tests compare on whatever machine they run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from benchmarks.models import ROOT
from odl import build, compile_model, json_text, read_recipe, results, train
from odl.cli import cli
from odl.report.page import page
from odl.targets import TARGETS
from odl.toolchain import find_toolchain
from odl.version import VERSION

EXAMPLES = ("digits_resnet8",)
RESULTS = "campaigns/reproduce.json"
STEPS = 2

Digests = dict[str, str]


def digests(folder: Path) -> Digests:
    """Of everything that is made of the examples in `folder`, by name; those of ELF files by compiler too."""
    found: Digests = {}
    for example in EXAMPLES:
        source = ROOT / "examples" / example
        recipe = read_recipe(source / "recipe.toml")
        for name, target in TARGETS.items():
            compiled = compile_model(source / "model.onnx", recipe, name)
            project = folder / example / name
            built = build(compiled, project)
            what = f"{example}, {name}"
            found[f"{what}: C project"] = _of_files(project)
            if target.is_riscv:
                tools = find_toolchain(target)
                version = ".".join(map(str, tools.version))
                found[f"{what}: ELF by {tools.kind} {version}"] = _of(built.elf.read_bytes())
            found[f"{what}: odl plan"] = _of_json(results.planned(compiled))
        checked = results.checked(compiled)
        found[f"{example}: odl check"] = _of_json({**checked, "model": ""})  # which is a path
    return found


def run_digests(folder: Path) -> Digests:
    """Of what a short training run says, with its losses, its costs and its weights."""
    source = ROOT / "examples" / EXAMPLES[0]
    compiled = compile_model(source / "model.onnx", read_recipe(source / "recipe.toml"), "qemu-zhinx")
    data = folder / "data.npz"
    _write_data(data)
    found = train(compiled, data, STEPS)
    weights = b"".join(value.tobytes() for value in found.weights.values())
    said = {key: value for key, value in results.ran(found).items() if key not in ("per_step", "layers", "stack_bytes")}
    return {
        "a run in QEMU: losses and updates": _of_json(said), "a run in QEMU: weights": _of(weights),
        "a run in QEMU: odl report": _of(_report(folder, data).encode()),
    }  # fmt: skip


def _report(folder: Path, data: Path) -> str:
    """The page about a run, of all that depends neither on a compiler nor on where it was made."""
    source, run = ROOT / "examples" / EXAMPLES[0], str(folder / "run")
    words = ["run", str(source / "model.onnx"), "-r", str(source / "recipe.toml"), "--data", str(data)]
    _odl(*words, "--steps", str(STEPS), "-o", run)
    (told,) = json.loads(_odl("report", run, "--steps", "1", "--json"))["runs"]
    layers = [
        {**_macs(layer), "layer": layer["layer"], "phases": {p: _macs(cost) for p, cost in layer["phases"].items()}}
        for layer in told["layers"]
    ]
    nowhere: dict[str, Any] = {"missing": ""}
    neutral = {"environment": {}, "commands": [], "flash": nowhere, "time": nowhere, "stack_bytes": 0}
    neutral["data"] = {"file": "", "sha256": ""}
    return page({"runs": [{**told, **neutral, "layers": layers, "per_step": _macs(told["per_step"])}]})


def _macs(cost: dict[str, Any]) -> dict[str, Any]:
    return {"macs": cost["macs"]}


def _odl(*words: str) -> str:
    """What a command prints."""
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    return done.stdout


def _write_data(path: Path) -> None:
    import numpy as np

    x = np.arange(4 * 64, dtype=np.float32).reshape(4, 1, 8, 8) % 17 / 17
    np.savez(path, x=x, y=np.arange(4))


def _of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _of_json(value: Any) -> str:
    return _of(json_text.dumps(value).encode())


def _of_files(project: Path) -> str:
    """All but what was compiled, and the model's copy, which is not ours to write."""
    paths = sorted(p for p in project.rglob("*") if p.is_file() and p.relative_to(project).parts[0] != "build")
    lines = [f"{path.relative_to(project)} {_of(path.read_bytes())}" for path in paths]
    return _of("\n".join(lines).encode())


def elsewhere(python: str = sys.executable, hash_seed: int = 1) -> Digests:
    """The same by another process, which compiles everything itself."""
    with tempfile.TemporaryDirectory(prefix="odl elsewhere ") as scratch:
        own = {"PYTHONHASHSEED": str(hash_seed), "XDG_CACHE_HOME": scratch, "PYTHONPATH": str(ROOT)}
        command = [python, "-m", "campaigns.reproduce", "--in", f"{scratch}/work"]
        done = subprocess.run(
            command, env={**os.environ, **own}, cwd=scratch, capture_output=True, text=True, timeout=900, check=True
        )
    found: Digests = json.loads(done.stdout)
    return found


def all_in(folder: Path) -> Digests:
    folder.mkdir(parents=True, exist_ok=True)
    return digests(folder) | run_digests(folder)


def recorded() -> Digests:
    """What stands in campaigns/reproduce.json."""
    path = ROOT / RESULTS
    found: Digests = json.loads(path.read_text())["digests"] if path.exists() else {}
    return found


def differing(here: Digests, there: Digests) -> list[str]:
    """What both have, and not the same: each machine has its own compilers."""
    return [what for what in here if what in there and here[what] != there[what]]


def _record(here: Digests) -> None:
    """With the ELF files of other compilers, where these still have the same sources."""
    known = recorded()
    kept = {} if differing(here, known) else known
    text = json.dumps({"odl_version": VERSION, "digests": {**kept, **here}}, indent=1, sort_keys=True)
    (ROOT / RESULTS).write_text(f"{text}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", action="append", default=[], help="another Python that has odl's packages")
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.folder:
        print(json.dumps(all_in(asked.folder)))
        return
    here = elsewhere(hash_seed=0)
    places = {"another hash seed": elsewhere(), **{python: elsewhere(python) for python in asked.python}}
    for place, there in places.items():
        other = differing(here, there)
        print(f"{place}: {len(here) - len(other)} of {len(here)} are the same", *other, sep="; not ")
    _record(here)
    sys.exit(any(here != there for there in places.values()))


if __name__ == "__main__":
    main()
