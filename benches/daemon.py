#!/usr/bin/env python3
"""Measures the daemon with 1,000 integrations and 1,000 live tokens: its memory, and how many tokens it hands out in a second.

Beside it, on the same machine in turns, AWS Secrets Manager Agent with 1,000 cached secrets (--aws PATH, a release build of its published
source), and git-credential-cache's daemon with 1,000 credentials. Everything is served from memory: nothing upstream is asked while it is
measured. Prints medians and their ratios to ours. Exits 1 if ours needs more memory than the peers' limit says, or answers less often.

Usage: benches/daemon.py [--bin-dir target/release] [--aws PATH] [--rounds 5] [--seconds 2]
Needs python3, a C compiler and git. Loads the machine, so run it where nothing else runs.
"""

import argparse
import concurrent.futures
import http.server
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
COUNT = 1000
CONNECTIONS = 32
RUNNER = "0f2cbd5e-9f0c-4d8e-8d5d-6c1f2a3b4c5d"
# As long as the tokens of hosts are, and the same for all.
TOKEN = "{:04d}-0123456789abcdef0123456789abcdef01234567"
SSRF = "bench-token"
# Ours to the best peer's, in one run.
MEMORY_LIMIT, RATE_LIMIT = 1.0, 1.0


# Every daemon, also one that did not become a candidate.
STARTED = []


def start(*args, **options):
    process = subprocess.Popen(*args, **options)
    STARTED.append(process)
    return process


class Upstream(http.server.BaseHTTPRequestHandler):
    """An issuer for our daemon, and AWS Secrets Manager for the other: each knows a token for each number."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def log_message(self, *_):
        pass

    def reply(self, document, kind="application/json"):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        base = f"http://127.0.0.1:{self.server.server_port}"
        self.reply({"issuer": base, "token_endpoint": f"{base}/token", "grant_types_supported": ["client_credentials"],
                    "token_endpoint_auth_methods_supported": ["client_secret_post"]})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        Upstream.asked += 1
        if self.path == "/token":
            number = int(body.split("client_id=app-")[1].split("&")[0])
            return self.reply({"access_token": TOKEN.format(number), "token_type": "Bearer", "expires_in": 36000})
        name = json.loads(body)["SecretId"]
        secret = json.dumps({"username": "x-token", "password": TOKEN.format(int(name.split("-")[1]))})
        self.reply({"ARN": f"arn:aws:secretsmanager:us-east-1:123456789012:secret:{name}-abcdef", "Name": name, "SecretString": secret,
                    "VersionId": "8d1f9b1e-0000-4000-8000-000000000000", "VersionStages": ["AWSCURRENT"], "CreatedDate": 1.7e9},
                   "application/x-amz-json-1.1")


def host(number):
    return f"scm-{number:04d}.example.com"


def wait_for(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not come about")
        time.sleep(0.1)
    return value


def connects(address, family=socket.AF_UNIX):
    with socket.socket(family) as client:
        return client.connect_ex(address) == 0


class Candidate:
    """A daemon that holds COUNT tokens. `load` are the arguments that say where it is and how it answers."""

    def __init__(self, name, process, load, requests, modes):
        self.name, self.process, self.load, self.requests, self.modes = name, process, load, requests, modes
        self.rates = {mode: [] for mode in modes}
        self.cpu = {mode: [] for mode in modes}
        self.tail = {mode: [] for mode in modes}

    def memory(self):
        """What of memory is this process's share, and what of that is its own and not of files, in KiB."""
        text = pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        fields = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        anonymous = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
        return {"RSS": fields["Rss"], "PSS": fields["Pss"], "anonymous": anonymous}

    def seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def run(self, program, mode, seconds):
        before = self.seconds()
        argv = [program, *self.load, mode, str(CONNECTIONS), str(seconds), "0123456789abcdef"]
        done = subprocess.run(argv, input="\0".join(self.requests).encode(), capture_output=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{self.name}, {mode}: {done.stderr.decode()}")
        answers, taken, _, slow = done.stdout.split()
        self.rates[mode].append(int(answers) / float(taken))
        self.cpu[mode].append((self.seconds() - before) / int(answers) * 1e6)
        self.tail[mode].append(float(slow))


def start_ours(bin_dir, work, base):
    """Our daemon: the list comes from a file, and every token from the issuer."""
    agent = str(bin_dir / "scm-agent")
    key = work / "runner.pem"
    subprocess.run([agent, "keygen", "--algorithm", "x25519", "--out", str(key)], check=True, capture_output=True)

    def sealed(number):
        argv = [agent, "seal", "--key", str(key)]
        return subprocess.run(argv, input=f"secret-{number}".encode(), check=True, capture_output=True).stdout.decode().strip()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        secrets = list(pool.map(sealed, range(COUNT)))
    integrations = [{"id": f"0196f3a4-0000-7000-8000-{number:012}", "scmId": "custom", "host": host(number), "runnerId": RUNNER,
                     "oauth": {"clientId": f"app-{number}", "encryptedClientSecret": secret, "issuerUrl": base}}
                    for number, secret in enumerate(secrets)]
    (work / "integrations.json").write_text(json.dumps({"pagination": {}, "integrations": integrations}))
    config = work / "config.toml"
    config.write_text(f'[control_plane]\nfile = "{work}/integrations.json"\n[key]\nfiles = ["{key}"]\n[log]\nlevel = "warn"\n'
                      f'[agent]\nsocket = "{work}/agent.sock"\nstate_dir = "{work}/state"\nallow_insecure_loopback = true\n'
                      'max_connections_per_user = 128\n')
    # Each answer is a line of the audit log: writing it is a part of what is measured.
    with open(work / "agent.log", "wb") as log:
        process = start([agent, "run", "--config", str(config)], stderr=log)
    path = str(work / "agent.sock")
    wait_for(lambda: connects(path), "our daemon's socket")

    def status():
        done = subprocess.run([agent, "status", "--json", "--config", str(config)], capture_output=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {"integrations": []}

    wait_for(lambda: len(status()["integrations"]) == COUNT, "our daemon's list")
    requests = [f"scm-agent/1 get\nprotocol=https\nhost={host(number)}\n\n" for number in range(COUNT)]
    candidate = Candidate("scm-agent", process, ["unix", path, "blank"], requests, ["keep", "once"])
    for request in requests:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(request.encode())
            client.shutdown(socket.SHUT_WR)
            if b"password=" not in b"".join(iter(lambda: client.recv(4096), b"")):
                raise SystemExit("our daemon has no token")
    tokens = sum(token["state"] == "valid" for one in status()["integrations"] for token in one["tokens"])
    if tokens != COUNT:
        raise SystemExit(f"our daemon holds {tokens} tokens")
    return candidate


def start_aws(program, work, base):
    """AWS Secrets Manager Agent, whose every secret comes from what stands for AWS here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = work / "aws.toml"
    config.write_text(f'log_level = "ERROR"\nlog_to_file = false\nhttp_port = {port}\nttl_seconds = 3600\ncache_size = {COUNT}\n'
                      'max_conn = 800\nregion = "us-east-1"\nvalidate_credentials = false\n')
    env = {"PATH": os.environ["PATH"], "AWS_TOKEN": SSRF, "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench",
           "AWS_ENDPOINT_URL": base, "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    process = start([program, "--config", str(config)], env=env, stdout=subprocess.DEVNULL)
    wait_for(lambda: connects(("127.0.0.1", port), socket.AF_INET), "AWS Secrets Manager Agent's port")
    head = f"Host: 127.0.0.1:{port}\r\nX-Aws-Parameters-Secrets-Token: {SSRF}\r\n"
    requests = [f"GET /secretsmanager/get?secretId=secret-{number:04d} HTTP/1.1\r\n{head}\r\n" for number in range(COUNT)]
    for request in requests:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").encode())
            answer = b"".join(iter(lambda: client.recv(4096), b""))
            if b"0123456789abcdef" not in answer:
                raise SystemExit(f"AWS Secrets Manager Agent has no secret: {answer[:300]}")
    return Candidate("AWS Secrets Manager Agent", process, ["tcp", str(port), "http"], requests, ["keep", "once"])


def start_git_cache(work, git_exec):
    """git-credential-cache's daemon. It serves one connection at a time, and each of them once."""
    folder = work / "cache"
    folder.mkdir(mode=0o700)
    path = str(folder / "socket")
    process = start([f"{git_exec}/git-credential-cache--daemon", path], stdout=subprocess.DEVNULL)
    wait_for(lambda: connects(path), "git-credential-cache's socket")
    for number in range(COUNT):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(f"action=store\ntimeout=36000\nprotocol=https\nhost={host(number)}\nusername=x-token\n"
                           f"password={TOKEN.format(number)}\n".encode())
            client.shutdown(socket.SHUT_WR)
            client.recv(1)
    requests = [f"action=get\ntimeout=36000\nprotocol=https\nhost={host(number)}\n" for number in range(COUNT)]
    return Candidate("git-credential-cache", process, ["unix", path, "eof"], requests, ["once"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin-dir", type=pathlib.Path, default=HERE.parent / "target/release", help="where our programs are")
    parser.add_argument("--aws", help="AWS Secrets Manager Agent's program, aws_secretsmanager_agent")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    args = parser.parse_args()
    git_exec = subprocess.check_output(["git", "--exec-path"], text=True).strip()
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{upstream.server_port}"
    candidates = []
    with tempfile.TemporaryDirectory(prefix="scm-agent-bench-") as directory:
        work = pathlib.Path(directory)
        program = str(work / "load")
        subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", program, str(HERE / "load.c")], check=True)
        try:
            candidates.append(start_ours(args.bin_dir, work, base))
            if args.aws:
                candidates.append(start_aws(args.aws, work, base))
            candidates.append(start_git_cache(work, git_exec))
            time.sleep(3)
            settled = [candidate.memory() for candidate in candidates]
            asked = Upstream.asked
            for _ in range(args.rounds):
                for candidate in candidates:
                    for mode in candidate.modes:
                        candidate.run(program, mode, args.seconds)
            if Upstream.asked != asked:
                raise SystemExit("somebody asked upstream: this was no measurement of what is held")
            loaded = [candidate.memory() for candidate in candidates]
        finally:
            for process in STARTED:
                process.terminate()
                process.wait()
    return report(candidates, settled, loaded)


def report(candidates, settled, loaded):
    print(f"{COUNT} integrations, {COUNT} live tokens; ratios are to scm-agent")
    for name, when in (("memory once they are there", settled), ("memory after the load", loaded)):
        print(f"\n{name}, KiB")
        for candidate, used in zip(candidates, when):
            ratio = used["PSS"] / when[0]["PSS"]
            print(f"  {candidate.name:28} RSS {used['RSS']:7} PSS {used['PSS']:7} ({ratio:5.2f}) anonymous {used['anonymous']:7}")
    rates = {}
    for mode, title in (("keep", f"{CONNECTIONS} connections kept"), ("once", f"{CONNECTIONS} connections, each for one request")):
        print(f"\nanswers a second, {title}")
        for candidate in (one for one in candidates if mode in one.modes):
            rate, cpu = statistics.median(candidate.rates[mode]), statistics.median(candidate.cpu[mode])
            rates.setdefault(mode, []).append(rate)
            slow = statistics.median(candidate.tail[mode])
            print(f"  {candidate.name:28} {rate:9.0f} ({rate / rates[mode][0]:5.2f}), "
                  f"{cpu:6.1f} us of processor each, 99 of 100 within {slow / 1000:6.2f} ms")
    bad = []
    # git's daemon answers no more than one connection at a time and opens no secret: it is shown, and held against nobody.
    peers = [index for index, candidate in enumerate(candidates) if candidate.name.startswith("AWS")]
    for index in peers:
        if settled[0]["PSS"] > MEMORY_LIMIT * settled[index]["PSS"]:
            bad.append(f"more memory than {candidates[index].name}")
        bad += [f"fewer answers than {candidates[index].name} ({mode})" for mode in ("keep", "once")
                if rates[mode][0] < RATE_LIMIT * rates[mode][index]]
    for line in bad:
        print(f"\nOVER THE LIMIT: {line}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
