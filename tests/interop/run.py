"""Drives scm-agent against real parts: `python run.py --bin-dir target/release --parts target/interop`.

Needs nothing but Python's standard library; the parts bring their own. Prints `ok NAME`, `not ok NAME: REASON` or
`skip NAME: REASON` for every case and ends non-zero if one failed. `--only TEXT` runs the cases whose name has TEXT in it.
"""

import argparse
import pathlib
import signal
import sys

sys.dont_write_bytecode = True

import suites
from harness import Report, World

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def arguments():
    parser = argparse.ArgumentParser(description="interop tests of scm-agent")
    parser.add_argument("--bin-dir", type=pathlib.Path, default=ROOT / "target" / "release")
    parser.add_argument("--parts", type=pathlib.Path, default=ROOT / "target" / "interop", help="where install.sh put the parts")
    parser.add_argument("--cargo-test", default="cargo test --release --locked --test it --", help="runs the Rust integration tests")
    parser.add_argument("--only", help="run only cases with this in their name")
    parser.add_argument("--keep", action="store_true", help="leave the scratch folder with logs and configurations")
    return parser.parse_args()


def main():
    options = arguments()
    report = Report(options.only)
    # A driver that is told to stop stops what it started first, as one that is interrupted does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    world = World(ROOT, options.bin_dir.resolve(), options.parts.resolve(), options.cargo_test.split())
    try:
        for suite in suites.ALL:
            suite(world).run(report)
    finally:
        if options.keep:
            print(f"logs and configurations: {world.scratch}", file=sys.stderr)
        else:
            world.close()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
