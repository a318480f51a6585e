// A certified OpenID provider on loopback: access tokens of 5 seconds, refresh tokens that rotate, reuse detection that
// revokes the whole family. Prints {"issuer", "counts", "refresh_token"} once it listens; `counts` answers with what the
// provider has seen, and forgets the access token that is posted to it (a revocation would take the refresh token along).
// `steady` is a second client whose access tokens are good for an hour, and has one. For each line of its standard input it
// prints the {"refresh_token", "access_token"} of another login of the first client; ends when that does.
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { Provider } from 'oidc-provider';
import MemoryAdapter from 'oidc-provider/lib/adapters/memory_adapter.js';

const LIFETIME = 5;
const CLIENT = { id: 'credbroker', secret: 'a secret: with /+% and spaces' };
const STEADY = 'steady';

const listening = (server) =>
  new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)));

const front = createServer((request, response) => provider.callback()(request, response));
const issuer = `http://127.0.0.1:${await listening(front)}`;

// What is issued is kept. By itself the package keeps a thousand records, and forgets tokens that are still good.
const records = new Map();
const provider = new Provider(issuer, {
  adapter: (model) => new MemoryAdapter(model, records),
  clients: [CLIENT.id, STEADY].map((id) => ({
    client_id: id,
    client_secret: CLIENT.secret,
    grant_types: ['authorization_code', 'refresh_token'],
    redirect_uris: ['http://127.0.0.1/callback'],
    token_endpoint_auth_method: 'client_secret_basic',
  })),
  scopes: ['openid', 'offline_access'],
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  features: {
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    revocation: { enabled: true },
  },
  rotateRefreshToken: true,
  ttl: { AccessToken: (_, token) => (token.clientId === STEADY ? 3600 : LIFETIME), IdToken: LIFETIME, RefreshToken: 86400, Grant: 86400 },
});

const counts = { refreshed: 0, refused: 0, revoked: 0, last: {} };
provider.on('grant.success', () => {
  counts.refreshed += 1;
});
provider.on('grant.error', (_, error) => {
  counts.refused += 1;
  counts.last = { error: error.error, detail: error.error_detail };
});
provider.on('grant.revoked', () => {
  counts.revoked += 1;
});
const back = createServer(async (request, response) => {
  if (request.method === 'POST') {
    const sent = await request.setEncoding('utf8').toArray();
    await (await provider.AccessToken.find(sent.join(''))).destroy();
  }
  response.end(JSON.stringify(counts));
});
const port = await listening(back);

// What an authorization code flow would have left behind.
const granted = async (clientId) => {
  const grant = new provider.Grant({ accountId: 'alice', clientId });
  grant.addOIDCScope('openid offline_access');
  const what = {
    accountId: 'alice',
    client: await provider.Client.find(clientId),
    grantId: await grant.save(),
    gty: 'authorization_code',
    scope: 'openid offline_access',
  };
  return {
    refresh_token: await new provider.RefreshToken(what).save(),
    access_token: await new provider.AccessToken(what).save(),
  };
};
console.log(
  JSON.stringify({
    issuer,
    counts: `http://127.0.0.1:${port}/`,
    client_id: CLIENT.id,
    client_secret: CLIENT.secret,
    refresh_token: (await granted(CLIENT.id)).refresh_token,
    steady: { client_id: STEADY, ...(await granted(STEADY)) },
  }),
);
createInterface({ input: process.stdin })
  .on('line', async () => console.log(JSON.stringify(await granted(CLIENT.id))))
  .on('close', () => process.exit(0));
