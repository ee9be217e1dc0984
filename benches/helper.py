#!/usr/bin/env python3
"""Measures what one start of the credential helper costs, beside others that do the same round trip.

Builds the C client and the C server that stands for the daemon, stores one credential in git-credential-cache, then starts
each helper in turn, so that whatever else the machine does hits all of them alike. Prints medians and their ratios to the
statically linked C client, which is the least that such a process can cost. Exits 1 if ours exceeds --limit.

Usage: benches/helper.py [--rounds 300] [--limit 1.1] [--helper PATH] [--also NAME=PATH ...]
Needs python3, a C compiler with a static libc, and git.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
REQUEST = b"protocol=https\nhost=bench.example\n"
PASSWORD = b"bench-0123456789012345678901234567890123456789"


def compile_c(work, name, *flags):
    out = work / (name + "".join(flags))
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", *flags, "-o", str(out), str(HERE / f"{name}.c")], check=True)
    return str(out)


def start(argv, request, env):
    """Runs one helper between a file and a pipe; returns the seconds from start to end, and what it printed."""
    out, inner = os.pipe()
    actions = [(os.POSIX_SPAWN_OPEN, 0, request, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, inner, 1)]
    begin = time.perf_counter_ns()
    pid = os.posix_spawn(argv[0], argv, env, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    taken = time.perf_counter_ns() - begin
    os.close(inner)
    with open(out, "rb") as pipe:
        printed = pipe.read()
    if status != 0:
        raise SystemExit(f"{argv[0]} ended with status {status}")
    return taken / 1e9, printed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="starts of each helper")
    parser.add_argument("--limit", type=float, default=1.1, help="greatest ratio of ours to the static C client")
    parser.add_argument("--helper", default=str(HERE.parent / "target/release/git-credential-scm-agent"), help="our helper")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=PATH", help="another build of ours, beside it")
    args = parser.parse_args()
    if not os.access(args.helper, os.X_OK):
        raise SystemExit(f"{args.helper} is missing: run `cargo build --release` first")

    env = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
    git_cache = os.path.join(subprocess.check_output(["git", "--exec-path"], text=True).strip(), "git-credential-cache")
    with tempfile.TemporaryDirectory(prefix="scm-agent-bench-") as directory:
        work = pathlib.Path(directory)
        # git-credential-cache insists on a private directory for its socket.
        (work / "cache").mkdir(mode=0o700)
        env["HOME"] = directory
        socket, cache = str(work / "agent.sock"), ["--socket", str(work / "cache/socket")]
        request = str(work / "request")
        pathlib.Path(request).write_bytes(REQUEST)
        helpers = {
            "C client, static": [compile_c(work, "client", "-static"), socket],
            "C client, static-pie": [compile_c(work, "client", "-static-pie"), socket],
            "C client, dynamic": [compile_c(work, "client"), socket],
            "git-credential-scm-agent": [args.helper, "--socket", socket, "get"],
            "git-credential-cache": [git_cache, *cache, "get"],
        }
        for name, _, path in (also.partition("=") for also in args.also):
            helpers[name] = [path, "--socket", socket, "get"]

        server = subprocess.Popen([compile_c(work, "server", "-static"), socket], stdout=subprocess.PIPE)
        try:
            if server.stdout.readline() != b"ready\n":
                raise SystemExit("the server did not start")
            stored = REQUEST + b"username=x-token-auth\npassword=" + PASSWORD + b"\n"
            subprocess.run([git_cache, *cache, "store"], input=stored, env=env, check=True)
            taken = {name: [] for name in helpers}
            for turn in range(args.rounds + 10):
                # Each helper goes first equally often.
                names = list(helpers)
                names = names[turn % len(names):] + names[: turn % len(names)]
                for name in names:
                    seconds, printed = start(helpers[name], request, env)
                    if b"password=" + PASSWORD + b"\n" not in printed:
                        raise SystemExit(f"{name} gave no password")
                    if turn >= 10:
                        taken[name].append(seconds)
        finally:
            server.kill()
            server.wait()
            subprocess.run([git_cache, *cache, "exit"], env=env, stdin=subprocess.DEVNULL, check=False)

    medians = {name: statistics.median(values) for name, values in taken.items()}
    yardstick = medians["C client, static"]
    print(f"{args.rounds} starts of each, interleaved; median microseconds and ratio to the static C client")
    for name, median in sorted(medians.items(), key=lambda item: item[1]):
        low, high = statistics.quantiles(taken[name], n=10)[0], statistics.quantiles(taken[name], n=10)[8]
        print(f"{name:28} {median * 1e6:8.0f}  {median / yardstick:5.2f}   (10 % to 90 %: {low * 1e6:.0f} to {high * 1e6:.0f})")
    ratio = medians["git-credential-scm-agent"] / yardstick
    if ratio > args.limit:
        print(f"git-credential-scm-agent is over the limit of {args.limit}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    if shutil.which("cc") is None:
        raise SystemExit("a C compiler is needed")
    sys.exit(main())
