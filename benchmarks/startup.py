"""`vlmlab --help` and `import vlmlab`: seconds of a fresh process, and whether torch was imported.

python benchmarks/startup.py
"""

import subprocess
import sys
from pathlib import Path

import _bench


def main() -> None:
    args = _bench.arguments(__doc__).parse_args()
    command = str(Path(sys.executable).with_name("vlmlab"))
    sides = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import vlmlab": [sys.executable, "-c", "import vlmlab"],
        "vlmlab --help": [command, "--help"],
        "vlmlab ask --help": [command, "ask", "--help"],
    }
    torch = "import sys, vlmlab; sys.exit('torch' in sys.modules)"
    light = subprocess.run([sys.executable, "-c", torch], check=False).returncode == 0
    times = _bench.rounds(
        {name: lambda c=c: subprocess.run(c, check=True, capture_output=True) for name, c in sides.items()}, args.rounds
    )
    rows = [{"what": name, **_bench.summary(times[name]), "without_torch": light} for name in sides]
    _bench.report("startup", rows, args)


if __name__ == "__main__":
    main()
