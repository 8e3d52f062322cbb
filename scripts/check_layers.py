"""Checks that C++ includes follow the layers of CMakeLists.txt: arrows never point back."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYER = re.compile(r"^mlc_layer\((\w+)(?: DEPENDS ([\w ]+?))?(?: LINKS [^)]*)?\)$", re.M)
INCLUDE = re.compile(r'^#include "(\w+)/', re.M)


def allowed_layers() -> dict[str, set[str]]:
    """Layer -> itself and every layer it may include, transitively."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    direct = {name: depends.split() for name, depends in LAYER.findall(text)}
    closed: dict[str, set[str]] = {}
    for name, depends in direct.items():  # declared in dependency order
        closed[name] = {name}.union(*(closed[layer] for layer in depends))
    closed["bindings"] = set(closed) | {"bindings"}
    return closed


def main() -> int:
    allowed = allowed_layers()
    faults = []
    for path in sorted((ROOT / "cpp").rglob("*")):
        if path.suffix not in {".h", ".cc"}:
            continue
        layer = path.relative_to(ROOT / "cpp").parts[0]
        for included in INCLUDE.findall(path.read_text(encoding="utf-8")):
            if included not in allowed[layer]:
                faults.append(f"{path.relative_to(ROOT)}: {layer} may not include {included}")
    sys.stdout.write("\n".join(faults) + "\n" if faults else f"{len(allowed)} layers hold\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
