"""Programs that speak git and are not git, as their users connect them to a credential helper: they ask `git credential`.

Run with the Python that has the libraries: `callers.py TOOL clone URL PATH`, `TOOL fetch PATH`, `TOOL push PATH`, where TOOL is libgit2 or
dulwich. Prints one line of JSON: {"version": ..., "asked": how often it asked for a credential}.
"""

import json
import subprocess
import sys

ASK_AT_MOST = 3


class Credential:
    """What `git credential` gives for a URL; another one when it did not serve, and its last word when it did."""

    def __init__(self):
        self.asked = 0
        self.held = None

    def fill(self, url):
        if self.held is not None:
            self.tell("reject")
        if self.asked == ASK_AT_MOST:
            raise RuntimeError("every credential was refused")
        self.asked += 1
        out = git("fill", f"url={url}\n\n")
        self.held = dict(line.split("=", 1) for line in out.splitlines() if line)
        return self.held["username"], self.held["password"]

    def tell(self, verdict):
        if self.held is not None:
            git(verdict, "".join(f"{name}={value}\n" for name, value in self.held.items()) + "\n")
            self.held = None


def git(action, text):
    return subprocess.run(["git", "credential", action], input=text, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout


class Libgit2:
    """It has no helpers of its own: it calls back for a credential, and again when the host refused that."""

    def __init__(self, credential):
        import pygit2

        self.pygit2 = pygit2
        self.version = f"pygit2 {pygit2.__version__}, libgit2 {pygit2.LIBGIT2_VERSION}"

        class Callbacks(pygit2.RemoteCallbacks):
            def credentials(self, url, _username, _allowed):
                return pygit2.UserPass(*credential.fill(url))

        self.callbacks = Callbacks

    def clone(self, url, path):
        self.pygit2.clone_repository(url, path, callbacks=self.callbacks())

    def fetch(self, path):
        self.pygit2.Repository(path).remotes["origin"].fetch(callbacks=self.callbacks())

    def push(self, path):
        self.pygit2.Repository(path).remotes["origin"].push(["refs/heads/main"], callbacks=self.callbacks())


class Dulwich:
    """It takes a user name and a password and says when the host refused them."""

    def __init__(self, credential):
        import dulwich
        from dulwich import client, porcelain

        self.porcelain, self.refused = porcelain, client.HTTPUnauthorized
        self.version = f"dulwich {'.'.join(str(part) for part in dulwich.__version__[:3])}"
        self.credential = credential

    def signed_in(self, url, act, *arguments):
        while True:
            username, password = self.credential.fill(url)
            try:
                return act(*arguments, errstream=self.porcelain.NoneStream(), username=username, password=password)
            except self.refused:
                # The next credential is another one, or there is none.
                continue

    def clone(self, url, path):
        self.signed_in(url, self.porcelain.clone, url, path)

    def fetch(self, path):
        self.signed_in(self.origin(path), self.porcelain.fetch, path, "origin")

    def push(self, path):
        self.signed_in(self.origin(path), self.porcelain.push, path, "origin", "refs/heads/main")

    def origin(self, path):
        with self.porcelain.open_repo_closing(path) as repository:
            return repository.get_config().get(("remote", "origin"), "url").decode()


def main():
    tool, action, *rest = sys.argv[1:]
    credential = Credential()
    client = {"libgit2": Libgit2, "dulwich": Dulwich}[tool](credential)
    getattr(client, action)(*rest)
    credential.tell("approve")
    print(json.dumps({"version": client.version, "asked": credential.asked}))


if __name__ == "__main__":
    main()
