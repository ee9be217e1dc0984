// The OAuth issuer of the interop tests: `oidc-provider` with the client credentials, device and code grants, rotating refresh
// tokens, introspection and revocation.
//
// Started as `node issuer.mjs MODULES`, where MODULES is the folder that `npm ci` ran in. The first line on standard input is
// JSON: {"clients": [{"client_id", "client_secret", "grant": "service", "user" or "none"}], "resource_server": client id that may
// introspect, "redirect_uris": those of apps that users sign in to, "token_lifetime": seconds, "public_url": where a proxy in front
// has it, if there is one}; secrets come this way so that they are in no argument list. It answers {"url": ...}. After that, one
// JSON line in gives one JSON line out:
//
//   {"do": "stats"}                    → {"token": n, "issued": n, "introspection": n, "discovery": n, "by_client": {id: n},
//                                         "connections": n, "bytes": n}: the last two count whatever arrived, HTTP or not;
//                                         `issued` and `by_client` count tokens of the client credentials grant
//   {"do": "secret", "client": id, "secret": s}  → the app's secret from now on; the old one is refused
//   {"do": "metadata", "serve": [..]}  → which of "oidc" and "rfc8414" answer from now on
//   {"do": "fail", "times": n, "status": s}  → the next n token requests get that status and no token
//   {"do": "lifetime", "seconds": n}   → how long new tokens live
//   {"do": "tokens"}                   → {"tokens": [..]}: every token, code and verifier so far, for those who look for leaks
//
// For people, who sign in on the issuer's own pages:
//
//   {"do": "people"}                   → {"started": n, "polls": n, "too_fast": n: of the device grant,
//                                         "refreshes": n, "rotations": n, "replays": n: used again after it was used up,
//                                         "refused": n: refresh tokens refused for another reason,
//                                         "abandoned": n: token requests whose client went away before they were looked at,
//                                         "in_flight": n}
//   {"do": "device", "interval": s, "lifetime": s}  → of device codes from now on
//   {"do": "slow_down", "times": n}    → the next n polls that would be told to wait are told to slow down
//   {"do": "expire", "user_code": c}   → {"expired": bool}: that device code is too old from now on
//   {"do": "delay", "before": ms, "after": ms}  → how long token requests wait to be looked at, and their answers to be sent
//   {"do": "rotation", "destructive": bool}  → whether a refresh ends the access tokens of before, too
//   {"do": "end", "token": t}          → that access token is dead, and its grant goes on, unlike after a revocation
//   {"do": "kill", "user": name}       → {"killed": n}: all grants of that user are gone
//   {"do": "grants", "user": name}     → {"grants": [{"access": [..], "refresh": [..]}]}: what was issued for each
//   {"do": "kinds"}                    → {"access": [..], "refresh": [..], "device_code": [..], "code": [..], "code_verifier": [..]}
//
// It ends when standard input does, so that nothing is left behind when the driver dies.

import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

import { Users, userApp } from './users.mjs';

const DISCOVERY = new Map([
  ['/.well-known/openid-configuration', 'oidc'],
  ['/.well-known/oauth-authorization-server', 'rfc8414'],
]);

// Standard output carries answers only; the library says its notices through the console.
console.info = console.log = console.warn;

const require = createRequire(resolve(process.argv[2], 'package.json'));
const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')).href);

const stats = { token: 0, issued: 0, introspection: 0, discovery: 0, by_client: {} };
const tokens = [];
const sockets = [];
const users = new Users(tokens);
const state = { served: new Set(DISCOVERY.values()), failures: 0, failureStatus: 503, lifetime: 600 };

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

function app(settings, { client_id, client_secret, grant }) {
  const kinds = {
    none: { grant_types: [], redirect_uris: [], response_types: [] },
    service: { grant_types: ['client_credentials'], redirect_uris: [], response_types: [] },
    user: userApp(settings.redirect_uris ?? []),
  };
  return { client_id, client_secret, token_endpoint_auth_method: 'client_secret_basic', ...kinds[grant] };
}

function provider(issuer, settings) {
  const lifetime = () => state.lifetime;
  const people = users.configuration(lifetime);
  const instance = new Provider(issuer, {
    ...people,
    clients: settings.clients.map((client) => app(settings, client)),
    scopes: ['openid', 'offline_access', 'repository', 'repository:write'],
    features: {
      ...people.features,
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: (ctx, client) => client.clientId === settings.resource_server },
      revocation: { enabled: true, allowedPolicy: (ctx, client, token) => client.clientId === token.clientId },
    },
    ttl: { ...people.ttl, ClientCredentials: lifetime },
  });
  // In front of a public URL is a proxy that says in its headers what was asked for.
  instance.proxy = Boolean(settings.public_url);
  instance.on('client_credentials.saved', (token) => {
    stats.issued += 1;
    tokens.push(token.jti);
    stats.by_client[token.clientId] = (stats.by_client[token.clientId] ?? 0) + 1;
  });
  users.watch(instance);
  return instance;
}

// Counts what arrives, and stands in for an issuer that is ill or old; everything else is the library's own answer.
function handle(answer) {
  return (request, response) => {
    const { pathname } = new URL(request.url, 'http://issuer.invalid');
    const document = DISCOVERY.get(pathname);
    if (document) {
      stats.discovery += 1;
      if (!state.served.has(document)) {
        response.writeHead(404).end();
        return;
      }
    }
    if (pathname === '/token/introspection') stats.introspection += 1;
    if (pathname === '/token' && request.method === 'POST') {
      stats.token += 1;
      if (state.failures > 0) {
        state.failures -= 1;
        request.resume();
        response.writeHead(state.failureStatus, { 'content-type': 'text/html' }).end('<html>out of order</html>');
        return;
      }
    }
    answer(request, response);
  };
}

const COMMANDS = {
  ...users.commands(),
  stats: () => ({ ...stats, connections: sockets.length, bytes: sockets.reduce((sum, socket) => sum + socket.bytesRead, 0) }),
  secret: async ({ client, secret }) => {
    (await instance.Client.find(client)).clientSecret = secret;
    return {};
  },
  tokens: () => ({ tokens }),
  metadata: ({ serve }) => {
    state.served = new Set(serve);
    return {};
  },
  fail: ({ times, status }) => {
    state.failures = times;
    state.failureStatus = status;
    return {};
  },
  lifetime: ({ seconds }) => {
    state.lifetime = seconds;
    return {};
  },
};

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const settings = JSON.parse((await lines.next()).value);
state.lifetime = settings.token_lifetime ?? state.lifetime;

const server = createServer();
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const url = `http://127.0.0.1:${server.address().port}`;
const instance = provider(settings.public_url ?? url, settings);
server.on('connection', (socket) => sockets.push(socket));
server.on('request', handle(instance.callback()));
say({ url });

for (;;) {
  const { value, done } = await lines.next();
  if (done) break;
  const command = JSON.parse(value);
  say(await COMMANDS[command.do](command));
}
process.exit(0);
