// What the issuer has for people: sign-in pages, the device and code grants, refresh tokens that change with every use, and a
// record of what it saw of them. The pages are the library's own; whoever comes may name themselves as they like.

const DEVICE_GRANT = 'urn:ietf:params:oauth:grant-type:device_code';
// Clocks of the two sides may differ in how they round.
const EARLY_MS = 100;
// RFC 8628 section 3.5.
const SLOW_DOWN_SECONDS = 5;
const DAY = 86_400;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// An app that users sign in to, with a secret of its own; the port of its redirect URI is free (RFC 8252 section 7.3).
export const userApp = (redirectUris) => ({
  application_type: 'native',
  grant_types: ['authorization_code', 'refresh_token', DEVICE_GRANT],
  redirect_uris: redirectUris,
  response_types: ['code'],
});

export class Users {
  constructor(tokens) {
    this.tokens = tokens;
    this.state = { interval: 1, deviceLifetime: 600, slowDowns: 0, before: 0, after: 0, destructive: false };
    this.seen = { started: 0, polls: 0, too_fast: 0, refreshes: 0, rotations: 0, replays: 0, refused: 0, abandoned: 0, in_flight: 0 };
    this.kinds = { access: [], refresh: [], device_code: [], code: [], code_verifier: [] };
    this.grants = new Map();
    this.polling = new Map();
  }

  // Settings of the library; `lifetime` says how long access tokens live.
  configuration(lifetime) {
    return {
      features: { devInteractions: { enabled: true }, deviceFlow: { enabled: true } },
      pkce: { required: () => true },
      rotateRefreshToken: true,
      // Git hosts do not ask for `offline_access`, and a grant does not end with the browser's session.
      issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
      expiresWithSession: () => false,
      ttl: {
        AccessToken: lifetime,
        AuthorizationCode: 60,
        DeviceCode: () => this.state.deviceLifetime,
        Grant: DAY,
        IdToken: 600,
        Interaction: 600,
        RefreshToken: DAY,
        Session: DAY,
      },
    };
  }

  watch(provider) {
    this.provider = provider;
    const saved = (kind) => (token) => this.remember(kind, token);
    provider.on('access_token.saved', saved('access'));
    provider.on('refresh_token.saved', saved('refresh'));
    provider.on('device_code.saved', saved('device_code'));
    provider.on('authorization_code.saved', saved('code'));
    provider.on('refresh_token.consumed', (token) => this.rotated(token));
    provider.on('device_authorization.success', (ctx, body) => {
      this.seen.started += 1;
      body.interval = this.state.interval;
      this.polling.set(body.device_code, { interval: this.state.interval, last: -Infinity });
    });
    provider.on('grant.success', (ctx) => {
      if (ctx.oidc.params.grant_type === 'refresh_token') this.seen.refreshes += 1;
      if (ctx.oidc.params.code_verifier) this.keep('code_verifier', ctx.oidc.params.code_verifier);
    });
    provider.on('grant.error', (ctx, error) => {
      if (ctx.oidc?.params?.grant_type !== 'refresh_token') return;
      if (error.error_detail === 'refresh token already used') this.seen.replays += 1;
      else this.seen.refused += 1;
    });
    provider.use((ctx, next) => this.around(ctx, next));
  }

  keep(kind, value) {
    if (!this.kinds[kind].includes(value)) this.kinds[kind].push(value);
    if (!this.tokens.includes(value)) this.tokens.push(value);
  }

  remember(kind, token) {
    this.keep(kind, token.jti);
    if (!token.accountId || !token.grantId) return;
    const grants = this.grants.get(token.accountId) ?? new Map();
    const grant = grants.get(token.grantId) ?? { access: new Set(), refresh: new Set() };
    grant[kind]?.add(token.jti);
    grants.set(token.grantId, grant);
    this.grants.set(token.accountId, grants);
  }

  rotated({ accountId, grantId }) {
    this.seen.rotations += 1;
    if (!this.state.destructive) return;
    for (const token of this.grants.get(accountId).get(grantId).access) this.provider.AccessToken.adapter.destroy(token);
  }

  // Around each request: a host that takes its time, and one that is particular about how often it is asked.
  async around(ctx, next) {
    if (ctx.path !== '/token' || ctx.method !== 'POST') return next();
    const arrived = performance.now();
    this.seen.in_flight += 1;
    try {
      await sleep(this.state.before);
      // Nobody waits for this any more, and nothing has happened yet.
      if (ctx.req.socket.destroyed) {
        this.seen.abandoned += 1;
        return undefined;
      }
      await next();
      this.judgePoll(ctx, arrived);
      await sleep(this.state.after);
    } finally {
      this.seen.in_flight -= 1;
    }
    return undefined;
  }

  judgePoll(ctx, arrived) {
    const one = ctx.oidc?.params?.grant_type === DEVICE_GRANT && this.polling.get(ctx.oidc.params.device_code);
    if (!one) return;
    this.seen.polls += 1;
    const early = arrived - one.last < one.interval * 1000 - EARLY_MS;
    one.last = arrived;
    if (early) this.seen.too_fast += 1;
    if (ctx.body?.error !== 'authorization_pending' || !(early || this.state.slowDowns > 0)) return;
    if (!early) this.state.slowDowns -= 1;
    one.interval += SLOW_DOWN_SECONDS;
    ctx.body = { error: 'slow_down' };
  }

  commands() {
    return {
      people: () => ({ ...this.seen }),
      device: ({ interval, lifetime }) => {
        this.state.interval = interval ?? this.state.interval;
        this.state.deviceLifetime = lifetime ?? this.state.deviceLifetime;
        return {};
      },
      slow_down: ({ times }) => {
        this.state.slowDowns = times;
        return {};
      },
      delay: ({ before, after }) => {
        Object.assign(this.state, { before, after });
        return {};
      },
      rotation: ({ destructive }) => {
        this.state.destructive = destructive;
        return {};
      },
      expire: async ({ user_code }) => {
        const { DeviceCode } = this.provider;
        const code = await DeviceCode.findByUserCode(user_code.replaceAll(/[^A-Z0-9]/gi, '').toUpperCase());
        if (!code) return { expired: false };
        const { payload } = await code.getValueAndPayload();
        // It stays in the issuer's memory for a while, so that it can say why.
        await DeviceCode.adapter.upsert(code.jti, { ...payload, exp: payload.iat - 1 }, 600);
        return { expired: true };
      },
      end: async ({ token }) => {
        await this.provider.AccessToken.adapter.destroy(token);
        return {};
      },
      kill: async ({ user }) => {
        const grants = [...(this.grants.get(user) ?? new Map()).keys()];
        for (const grant of grants) {
          await this.provider.RefreshToken.revokeByGrantId(grant);
          await this.provider.Grant.adapter.destroy(grant);
        }
        return { killed: grants.length };
      },
      grants: ({ user }) => ({
        grants: [...(this.grants.get(user) ?? new Map()).values()].map(({ access, refresh }) => ({ access: [...access], refresh: [...refresh] })),
      }),
      kinds: () => this.kinds,
    };
  }
}
