"""Gits of several versions, each with our helper and no other."""

import contextlib
import os
import pathlib
import subprocess

from harness import Failed

CONFIG = """\
[credential]
	helper =
	helper = {helper} --socket {socket}
[user]
	name = dev
	email = dev@example.test
[advice]
	detachedHead = false
{more}"""


class Git:
    """One git. `heals` is whether it asks again when a host refuses a token that a helper was not sure of."""

    def __init__(self, world, program):
        self.world = world
        self.program = pathlib.Path(program)
        said = world.call([program, "--version"]).stdout.decode()
        self.name = said.strip().removeprefix("git version ")
        self.version = tuple(int(part) for part in self.name.split(".")[:2])
        self.heals = self.version >= (2, 46)

    @classmethod
    def all(cls, world):
        """The installed one and those that install.sh brought, the oldest first."""
        programs = [world.which("git"), *sorted(world.gits_dir.glob("*/bin/git"))]
        return sorted((cls(world, program) for program in programs), key=lambda git: git.version)

    @staticmethod
    def each(gits, check):
        """`check(git)` for each git; a failure names it."""
        for git in gits:
            try:
                check(git)
            except Exception as error:
                error.args = (f"git {git.name}: {error}",)
                raise

    def environment(self, config):
        """What makes a program, and whatever it starts, use this git with this configuration."""
        path = os.pathsep.join([str(self.program.parent), os.environ["PATH"]])
        return {"PATH": path, "GIT_CONFIG_GLOBAL": str(config), "GIT_TERMINAL_PROMPT": "0"}

    def run(self, agent, *arguments, check=True, more=None, **options):
        """Runs it to its end; what it says is kept for the leak search. `more` are further variables of its environment."""
        environment = {**self.environment(configuration(agent)), **(more or {})}
        done = self.world.call([self.program, *arguments], check=False, environment=environment, **options)
        agent.seen.append(done.stderr.decode(errors="replace"))
        if check and done.returncode != 0:
            raise Failed(f"git {self.name} {arguments[0]} ended with {done.returncode}: {last(done)}")
        return done

    def start(self, agent, *arguments):
        """Starts it, for those who start many."""
        env = self.world.environment(**self.environment(configuration(agent)))
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": env}
        return subprocess.Popen([str(argument) for argument in (self.program, *arguments)], **options)


def configuration(agent, more=""):
    """A git configuration in which the helper of this daemon is the only one."""
    path = agent.dir / "gitconfig"
    text = CONFIG.format(helper=agent.world.helper, socket=agent.socket, more=more)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path


def at_once(agent, jobs, seconds=200):
    """Runs (git, arguments) pairs all at the same time; returns for each how it ended and what it said."""
    with contextlib.ExitStack() as stack:
        children = []
        for git, arguments in jobs:
            child = git.start(agent, *arguments)
            stack.callback(child.wait)
            stack.callback(child.kill)
            children.append(child)
        ended = []
        for (git, _), child in zip(jobs, children):
            out, said = child.communicate(timeout=seconds)
            ended.append(subprocess.CompletedProcess([f"git {git.name}"], child.returncode, out, said))
    agent.seen += [one.stderr.decode(errors="replace") for one in ended]
    return ended


def last(done):
    """The end of what a command said."""
    return " | ".join(done.stderr.decode(errors="replace").strip().splitlines()[-3:])
