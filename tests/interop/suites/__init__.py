"""One file per suite, in the order in which they run."""

from suites.clients import Clients
from suites.conformance import Conformance, ConformancePats
from suites.containers import Containers
from suites.crowd import Crowd
from suites.fake import Fake
from suites.flow import Flow
from suites.gits import Gits
from suites.guide import Guide
from suites.hang import Hang
from suites.keys import Keys
from suites.leaks import Leaks
from suites.login import Login
from suites.login_kills import LoginKills
from suites.login_users import LoginUsers
from suites.many import Many
from suites.metrics import Metrics
from suites.other_helpers import Askpass, GitCredentialManager, GitCredentialOAuth, GitCredentialOAuthElsewhere
from suites.outages import Outages
from suites.parts import Parts
from suites.pats import Pats
from suites.proxy import Proxy
from suites.restart import Restart
from suites.setup import Setup
from suites.shells import Shells
from suites.systemd import Systemd
from suites.trust import Trust, TrustMembers
from suites.users import Users
from suites.watch import Watch

# Leaks looks at what the suites before it left behind, so it is the last.
ALL = [Parts, Users, Fake, Keys, Flow, Gits, Clients, Conformance, ConformancePats, Hang, Setup, Many, Crowd, Outages, Proxy,
       Watch, Restart, Trust, TrustMembers, Login, LoginUsers, LoginKills, Askpass, GitCredentialManager, GitCredentialOAuth,
       GitCredentialOAuthElsewhere, Pats, Metrics, Shells, Systemd, Guide, Containers, Leaks]
