// An authorization server for tests: npm's oidc-provider, which rotates the
// refresh token at every exchange and revokes the whole grant at the first
// reuse of a spent one. Beside it stands a small local API with which a test
// logs accounts in and asks what became of their grants:
//
//   POST /rig/login?account=A&client=C   {"grant_id", "refresh_token"}
//   GET  /rig/grants/<id>                {"revoked", "refreshes", "errors"}
//
// usage: node server.mjs MODULES-FOLDER '{"access_token_ttl": seconds, "refresh_token_ttl": seconds}'
//
// It prints "ready <port>" and ends when its standard input closes, so that
// it never outlives the test that started it.

import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, config] = process.argv.slice(2);
const { access_token_ttl: accessTTL, refresh_token_ttl: refreshTTL } = JSON.parse(config);
// Its notices about a setup that nobody should run in production.
console.info = console.warn = () => {};
const main = join(resolve(modules), 'oidc-provider', 'lib', 'index.js');
const { default: Provider } = await import(pathToFileURL(main).href);

process.stdin.on('end', () => process.exit(0)).resume();

const server = createServer();
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const issuer = `http://127.0.0.1:${server.address().port}`;

const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const scope = 'openid offline_access email';
const client = (id, auth) => ({
  client_id: id,
  token_endpoint_auth_method: auth,
  ...(auth === 'none' ? {} : { client_secret: 'rig-client-secret' }),
  grant_types: ['refresh_token'],
  response_types: [],
  redirect_uris: [],
  id_token_signed_response_alg: 'ES256',
});

const provider = new Provider(issuer, {
  clients: [
    client('rig-public', 'none'),
    client('rig-post', 'client_secret_post'),
    client('rig-basic', 'client_secret_basic'),
  ],
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig' }] },
  rotateRefreshToken: true,
  scopes: scope.split(' '),
  claims: { openid: ['sub'], email: ['email'] },
  findAccount: (_, sub) => ({
    accountId: sub,
    claims: () => ({ sub, email: `${sub}@rig.example` }),
  }),
  ttl: { AccessToken: accessTTL, RefreshToken: refreshTTL, Grant: refreshTTL, IdToken: accessTTL },
  features: { devInteractions: { enabled: false }, userinfo: { enabled: true } },
});

const grants = new Map(); // grant id -> {revoked, refreshes, errors}
provider.on('grant.success', (ctx) => {
  const grant = grants.get(ctx.oidc.entities.Grant?.jti);
  if (grant) grant.refreshes += 1;
});
provider.on('grant.revoked', (_, id) => {
  const grant = grants.get(id);
  if (grant) grant.revoked = true;
});
provider.on('grant.error', (ctx, err) => {
  const grant = grants.get(ctx.oidc?.entities?.Grant?.jti);
  if (grant) grant.errors.push(err.error_description ?? err.message);
});

async function login(accountId, clientId) {
  const grant = new provider.Grant({ accountId, clientId });
  grant.addOIDCScope(scope);
  const grantId = await grant.save();
  grants.set(grantId, { revoked: false, refreshes: 0, errors: [] });
  const token = new provider.RefreshToken({
    accountId,
    client: await provider.Client.find(clientId),
    grantId,
    gty: 'authorization_code',
    scope,
    authTime: Math.floor(Date.now() / 1000),
    expiresWithSession: false,
  });
  return { grant_id: grantId, refresh_token: await token.save() };
}

async function answer(url, method) {
  if (method === 'POST' && url.pathname === '/rig/login') {
    return login(url.searchParams.get('account'), url.searchParams.get('client'));
  }
  if (method === 'GET' && url.pathname.startsWith('/rig/grants/')) {
    return grants.get(url.pathname.slice('/rig/grants/'.length));
  }
  return undefined;
}

const oidc = provider.callback();
server.on('request', async (req, res) => {
  const url = new URL(req.url, issuer);
  if (!url.pathname.startsWith('/rig/')) {
    oidc(req, res);
    return;
  }
  let status = 200;
  let body;
  try {
    body = await answer(url, req.method);
    if (body === undefined) [status, body] = [404, { error: 'no such route or grant' }];
  } catch (err) {
    [status, body] = [500, { error: String(err) }];
  }
  res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
});

console.log(`ready ${server.address().port}`);
