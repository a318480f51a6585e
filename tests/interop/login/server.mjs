// A certified OpenID provider on loopback, for logins: device flow, a native client whose loopback redirect may have any
// port, one whose redirect is a page that shows the code, refresh tokens that rotate, reuse detection. Its pages for
// signing in and consent are its own. Prints {"issuer", "about", "page"} once it listens; `about` answers with what the
// provider has seen, secrets among it, and `page` is the redirect of the client `paste`. Ends when its standard input does.
import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';

const LIFETIME = 6;
const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';

const listening = (server) =>
  new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)));

const seen = { refreshed: 0, refused: 0, revoked: 0, tokens: [], secrets: {} };
const page = (query) => {
  const answer = query.has('code') ? `${query.get('code')}#${query.get('state')}` : `Nothing: ${query.get('error')}`;
  const text = answer.replace(/[^\w#:. -]/g, (c) => `&#${c.codePointAt(0)};`);
  return `<!DOCTYPE html><title>Your code</title><p>Paste this where you came from:</p><code>${text}</code>`;
};
const back = createServer((request, response) => {
  const url = new URL(request.url, 'http://127.0.0.1');
  if (url.pathname === '/about') {
    response.setHeader('content-type', 'application/json').end(JSON.stringify(seen));
  } else if (url.pathname === '/code') {
    response.setHeader('content-type', 'text/html').end(page(url.searchParams));
  } else {
    response.writeHead(404).end();
  }
});
const home = `http://127.0.0.1:${await listening(back)}`;

const front = createServer((request, response) => provider.callback()(request, response));
const issuer = `http://127.0.0.1:${await listening(front)}`;

const client = (client_id, redirect_uri) => ({
  client_id,
  client_name: 'credbroker',
  application_type: 'native',
  grant_types: ['authorization_code', 'refresh_token', DEVICE],
  redirect_uris: [redirect_uri],
  token_endpoint_auth_method: 'none',
});
const provider = new Provider(issuer, {
  clients: [client('native', 'http://127.0.0.1/callback'), client('paste', `${home}/code`)],
  scopes: ['openid', 'offline_access'],
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  features: {
    deviceFlow: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
  },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  ttl: {
    AccessToken: LIFETIME,
    DeviceCode: 600,
    Grant: 86400,
    IdToken: LIFETIME,
    Interaction: 600,
    RefreshToken: 86400,
    Session: 86400,
  },
});

// What no record of the broker may hold: everything that goes to the token endpoint or comes from it.
const keep = (kind, value) => {
  if (value) (seen.secrets[kind] ??= []).push(value);
};
provider.use(async (ctx, next) => {
  await next();
  const { route, params, entities } = ctx.oidc ?? {};
  if (route === 'token') {
    keep('verifier', params?.code_verifier);
    keep('code', params?.code);
    keep('refresh token', params?.refresh_token);
    keep('device code', params?.device_code);
    keep('refresh token', ctx.body?.refresh_token);
    keep('id token', ctx.body?.id_token);
    if (ctx.body?.access_token) {
      const { access_token, refresh_token } = ctx.body;
      const { client_id, grant_type } = params;
      seen.tokens.push({ access_token, refresh_token, client_id, grant_type, sub: entities.Account?.accountId });
    }
  } else if (route === 'device_authorization') {
    keep('device code', ctx.body?.device_code);
  }
});
provider.on('grant.success', (ctx) => {
  if (ctx.oidc.params.grant_type === 'refresh_token') seen.refreshed += 1;
});
provider.on('grant.error', (ctx) => {
  if (ctx.oidc.params?.grant_type === 'refresh_token') seen.refused += 1;
});
provider.on('grant.revoked', () => {
  seen.revoked += 1;
});
console.log(JSON.stringify({ issuer, about: `${home}/about`, page: `${home}/code` }));
process.stdin.on('end', () => process.exit(0)).resume();
