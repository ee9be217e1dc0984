"""The control plane and the issuer behind a proxy, with certificates of a private authority.

All of it is in a network of its own, with an address from a private range, and the names are in a hosts file that only those see
who are given it: the proxy always, the daemon where it should ask directly. The machine stays as it is. The authority is made by
OpenSSL, nginx speaks TLS, and tinyproxy passes on what it is asked to.
"""

import contextlib
import os
import pwd
import secrets

from agent import Agent, Key, forms
from git_host import listens
from harness import Process, Suite, expect, network_of_our_own, wait_until
from parts import ControlPlane, Issuer

ADDRESS = "10.213.7.1"
PLANE = "cp.example.test"
ISSUER = "id.example.test"
HOST = "git.example.test"
USER = "runner"
PORTS = {"with": 3128, "without": 3129}

NGINX = """\
{user}
daemon off;
worker_processes 1;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    ssl_certificate {dir}/server.pem;
    ssl_certificate_key {dir}/server.key;
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-Proto https;
    server {{
        listen {address}:443 ssl;
        server_name {plane};
        location / {{ proxy_pass {plane_url}; }}
    }}
    server {{
        listen {address}:443 ssl;
        server_name {issuer};
        location / {{ proxy_pass {issuer_url}; }}
    }}
}}
"""

TINYPROXY = """\
Port {port}
Listen 127.0.0.1
Timeout 60
MaxClients 50
LogFile "{log}"
LogLevel Connect
ConnectPort 443
DisableViaHeader Yes
Filter "{filter}"
FilterDefaultDeny Yes
{more}
"""


class Proxy(Suite):
    needs = frozenset({"venv", "issuer", "nginx", "openssl", "tinyproxy", "own network", "binaries"})

    def setup(self):
        world, enter = self.world, self.stack.enter_context
        enter(network_of_our_own(ADDRESS))
        self.dir = world.dir("proxy")
        self.password = secrets.token_hex(12)
        self.make_certificates()
        self.hosts = self.dir / "hosts"
        self.hosts.write_text(f"127.0.0.1 localhost\n{ADDRESS} {PLANE} {ISSUER}\n")
        # Mounts of its own, so that the file is nobody else's.
        self.with_hosts = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', self.hosts]
        self.key = Key(world, "proxy")
        self.issuer = enter(Issuer(world, public_url=f"https://{ISSUER}"))
        self.plane = enter(ControlPlane(world, self.key.registered)).start()
        self.start_nginx(enter, self.plane.url.removesuffix("/api"), self.issuer.url)
        self.plane.url = f"https://{PLANE}/api"
        self.start_tinyproxy(enter, "with", f"BasicAuth {USER} {self.password}")
        self.start_tinyproxy(enter, "without", "")
        self.row = self.plane.integration(HOST, "app", self.key.seal(self.issuer.apps["app"]), f"https://{ISSUER}")
        self.plane.put(self.row)

    def make_certificates(self):
        openssl = lambda *arguments: self.world.call(["openssl", *arguments])  # noqa: E731
        self.ca, key = self.dir / "ca.pem", self.dir / "ca.key"
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl("req", "-x509", *new_key, "-keyout", key, "-out", self.ca, "-days", "2", "-subj", "/CN=private authority")
        request, extensions = self.dir / "server.csr", self.dir / "server.ext"
        openssl("req", "-new", *new_key, "-keyout", self.dir / "server.key", "-out", request, "-subj", "/CN=server")
        extensions.write_text(f"subjectAltName=DNS:{PLANE},DNS:{ISSUER}\n")
        sign = ("-CA", self.ca, "-CAkey", key, "-CAcreateserial", "-extfile", extensions, "-days", "2")
        openssl("x509", "-req", "-in", request, *sign, "-out", self.dir / "server.pem")

    def start_nginx(self, enter, plane_url, issuer_url):
        config = self.dir / "nginx.conf"
        user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
        names = {"plane": PLANE, "plane_url": plane_url, "issuer": ISSUER, "issuer_url": issuer_url}
        config.write_text(NGINX.format(user=user, dir=self.dir, address=ADDRESS, **names))
        enter(Process("nginx", [self.world.which("nginx"), "-e", self.dir / "error.log", "-p", self.dir, "-c", config], self.world))

    def start_tinyproxy(self, enter, name, more):
        config, allowed = self.dir / f"{name}.conf", self.dir / "allowed"
        allowed.write_text("example\\.test\n")
        log = self.log_of(name)
        config.write_text(TINYPROXY.format(port=PORTS[name], log=log, filter=allowed, more=more))
        enter(Process("tinyproxy", [*self.with_hosts, self.world.which("tinyproxy"), "-d", "-c", config], self.world))
        wait_until(lambda: listens(PORTS[name]), "tinyproxy does not listen")

    def log_of(self, name):
        return self.dir / f"{name}.log"

    def asked(self, name):
        """How often a proxy was asked for each name."""
        text = self.log_of(name).read_text(errors="replace")
        return {host: text.count(f"CONNECT {host}:443") for host in (PLANE, ISSUER)}

    @contextlib.contextmanager
    def agent(self, plane="", more="", **options):
        """A daemon; afterwards the proxy's password must be in nothing that it wrote or said."""
        with Agent(self.world, self.plane, self.key, more, control_plane=plane, loopback=False, **options) as agent:
            yield agent
        texts = [agent.log.read_text(errors="replace"), *agent.seen]
        needles = forms(self.password) | forms(f"{USER}:{self.password}")
        expect(not any(needle in text for needle in needles for text in texts), "the proxy's password is in a log or an output")

    def proxy(self, password=None):
        return f'proxy = "http://{USER}:{password or self.password}@127.0.0.1:{PORTS["with"]}"'

    def ca_file(self):
        return f'ca_file = "{self.ca}"'

    def failure(self, agent, *words):
        """Waits until status says why the list does not come; checks that doctor says so too."""
        said = lambda status: status["sync"]["last_error"] or ""  # noqa: E731
        agent.wait_for(lambda status: all(word in said(status) for word in words), f"not said: {words}")
        report = agent.command("doctor").stdout.decode()
        expect(all(word in report for word in words), f"doctor does not say {words}: {report}")
        return report

    def serves(self, agent):
        agent.wait_secrets(self.row["id"])
        agent.password(HOST)

    def case_names_that_only_the_proxy_can_resolve_give_a_list_and_a_token(self):
        with self.agent(f"{self.ca_file()}\n{self.proxy()}") as agent:
            self.serves(agent)
            report = agent.command("doctor").stdout.decode()
        asked = self.asked("with")
        expect(min(asked.values()) > 0, f"the proxy was asked {asked}")
        expect(f"through 127.0.0.1:{PORTS['with']}" in report, f"doctor names no proxy: {report}")

    def case_without_the_ca_file_the_certificate_is_named(self):
        with self.agent(self.proxy()) as agent:
            report = self.failure(agent, f"certificate of {PLANE}", "authority is not trusted")
        expect("ca_file" in report, f"doctor does not say where to look: {report}")

    def case_a_missing_password_is_said_to_be_the_proxys(self):
        with self.agent(f'{self.ca_file()}\nproxy = "http://127.0.0.1:{PORTS["with"]}"') as agent:
            self.failure(agent, f"proxy 127.0.0.1:{PORTS['with']}", "HTTP 407")

    def case_a_wrong_password_is_said_to_be_the_proxys(self):
        # This proxy says 401 then, as if it were the host that was asked for.
        with self.agent(f"{self.ca_file()}\n{self.proxy(secrets.token_hex(12))}") as agent:
            self.failure(agent, f"through the proxy 127.0.0.1:{PORTS['with']}", "username and password")

    def case_a_refusal_of_the_proxy_is_said_to_be_its_own(self):
        url, self.plane.url = self.plane.url, f"https://{PLANE}:8443/api"
        try:
            with self.agent(f"{self.ca_file()}\n{self.proxy()}") as agent:
                self.failure(agent, f"cannot reach {PLANE}:8443 through the proxy 127.0.0.1:{PORTS['with']}", "refused")
        finally:
            self.plane.url = url

    def case_exceptions_are_asked_directly(self):
        before = self.asked("with")
        plane = f'{self.ca_file()}\n{self.proxy()}\nno_proxy = ["example.test"]'
        provider = f'[[provider]]\nhost = "{HOST}"\nissuer = "https://{ISSUER}"\n'
        with self.agent(plane, provider, wrapper=self.with_hosts) as agent:
            self.serves(agent)
        expect(self.asked("with") == before, f"the proxy was asked {self.asked('with')}, before {before}")

    def case_an_issuer_in_a_private_network_is_not_asked_unless_it_is_named(self):
        before = self.issuer.token_requests()
        with self.agent(f'{self.ca_file()}\nno_proxy = ["*"]', wrapper=self.with_hosts) as agent:
            agent.wait_secrets(self.row["id"])
            answer, said = agent.ask(protocol="https", host=HOST)
            expect("password" not in answer, "a token from a host in a private network that nobody named")
            expect("private address" in said and "[[provider]]" in said, f"it said: {said}")
        expect(self.issuer.token_requests() == before, "the issuer was asked")

    def case_one_proxy_each_by_the_configuration(self):
        before = {name: self.asked(name) for name in PORTS}
        scm = f'[scm]\nproxy = "http://127.0.0.1:{PORTS["without"]}"\n'
        with self.agent(f"{self.ca_file()}\n{self.proxy()}", scm) as agent:
            self.serves(agent)
        expect(self.asked("with")[ISSUER] == before["with"][ISSUER], "the issuer was asked through the control plane's proxy")
        expect(self.asked("without")[PLANE] == before["without"][PLANE], "the control plane was asked through the other proxy")
        expect(self.asked("without")[ISSUER] > before["without"][ISSUER], "the issuer was not asked through its proxy")

    def case_the_environment_alone_will_do(self):
        before = self.asked("without")
        environment = {"HTTPS_PROXY": f"http://127.0.0.1:{PORTS['without']}", "SSL_CERT_FILE": str(self.ca)}
        with self.agent(environment=environment) as agent:
            self.serves(agent)
        after = self.asked("without")
        expect(all(after[host] > before[host] for host in after), f"the proxy was asked {after}, before {before}")
