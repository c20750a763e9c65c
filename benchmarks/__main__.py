"""Runner of this folder's benchmarks, each in a separate process: `python -m benchmarks [NAME ...]`."""

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    """Return the modules that define `main`, except this one."""
    files = sorted(file for file in HERE.glob("[!_]*.py"))
    return [
        file.stem
        for file in files
        if any(
            isinstance(n, ast.FunctionDef) and n.name == "main"
            for n in ast.parse(file.read_text("utf-8")).body
        )
    ]


def main(wanted: Sequence[str]) -> int:
    """Run the named benchmarks or all; return 0 if all succeeded, 1 if one failed, 2 for an unknown name."""
    known = names()
    strange = [name for name in wanted if name not in known]
    if strange:
        sys.stderr.write(f"No benchmark {strange[0]!r}. Known: {', '.join(known)}.\n")
        return 2
    failed = 0
    for name in wanted or known:
        sys.stdout.write(f"\n== {name} ==\n")
        sys.stdout.flush()
        failed += bool(
            subprocess.run(
                [sys.executable, "-m", f"{HERE.name}.{name}"], cwd=HERE.parent, check=False
            ).returncode
        )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
