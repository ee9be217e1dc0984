// The OAuth issuer of the interop tests: `oidc-provider` with the client credentials grant, introspection and revocation.
//
// Started as `node issuer.mjs MODULES`, where MODULES is the folder that `npm ci` ran in. The first line on standard input is
// JSON: {"clients": [{"client_id", "client_secret", "grant": bool}], "resource_server": client id that may introspect,
// "token_lifetime": seconds, "public_url": where a proxy in front has it, if there is one}; secrets come this way so that they are in no argument list. It answers {"url": ...}. After that, one JSON line in gives one JSON line out:
//
//   {"do": "stats"}                    → {"token": n, "issued": n, "introspection": n, "discovery": n, "by_client": {id: n},
//                                         "connections": n, "bytes": n}: the last two count whatever arrived, HTTP or not
//   {"do": "secret", "client": id, "secret": s}  → the app's secret from now on; the old one is refused
//   {"do": "metadata", "serve": [..]}  → which of "oidc" and "rfc8414" answer from now on
//   {"do": "fail", "times": n, "status": s}  → the next n token requests get that status and no token
//   {"do": "lifetime", "seconds": n}   → how long new tokens live
//   {"do": "tokens"}                   → {"tokens": [..]}, every token issued so far, for those who look for leaks
//
// It ends when standard input does, so that nothing is left behind when the driver dies.

import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

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
const state = { served: new Set(DISCOVERY.values()), failures: 0, failureStatus: 503, lifetime: 600 };

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

function provider(issuer, settings) {
  const instance = new Provider(issuer, {
    clients: settings.clients.map(({ client_id, client_secret, grant }) => ({
      client_id,
      client_secret,
      grant_types: grant ? ['client_credentials'] : [],
      redirect_uris: [],
      response_types: [],
      token_endpoint_auth_method: 'client_secret_basic',
    })),
    scopes: ['openid', 'repository', 'repository:write'],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true, allowedPolicy: (ctx, client) => client.clientId === settings.resource_server },
      revocation: { enabled: true, allowedPolicy: (ctx, client, token) => client.clientId === token.clientId },
    },
    ttl: { ClientCredentials: () => state.lifetime },
  });
  // In front of a public URL is a proxy that says in its headers what was asked for.
  instance.proxy = Boolean(settings.public_url);
  instance.on('client_credentials.saved', (token) => {
    stats.issued += 1;
    tokens.push(token.jti);
    stats.by_client[token.clientId] = (stats.by_client[token.clientId] ?? 0) + 1;
  });
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
