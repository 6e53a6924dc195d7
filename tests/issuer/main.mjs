// An OpenID provider for tests: the certified npm package oidc-provider, over TLS.
//
// In: `node main.mjs FOLDER PORT HOST CERTIFICATE KEY`, then commands on stdin, one a line. Out: one line on stdout for each:
//   token CLIENT AUDIENCE   an access token (RFC 9068), got at the token endpoint with the client's secret
//   rotate                  a new key, which signs from now on; the keys before it stay published
//   retire                  the keys that do not sign are published no more
//   clock SECONDS           the provider's clock goes so far ahead, or behind
// Keys are kept in FOLDER, so that a second process goes on with those of the first.

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

const [folder, port, host, certificate, key] = process.argv.slice(2);
const issuer = `https://${host}:${port}`;
const file = join(folder, 'keys.json');
const SECRET = randomUUID();

// The provider reads its clock here and nowhere else.
const now = Date.now;
let offset = 0;
Date.now = () => now() + offset;

function newKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' };
}

let keys = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : [newKey()];
let handle;

// The package takes its keys when it is made: other keys are another provider behind the same port.
function publish(next) {
  keys = next;
  writeFileSync(file, JSON.stringify(keys), { mode: 0o600 });
  const provider = new Provider(issuer, {
    jwks: { keys },
    clients: ['ci', 'other'].map((client_id) => ({
      client_id,
      client_secret: SECRET,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    })),
    ttl: { ClientCredentials: 600 },
    // As a token that was exchanged has it (RFC 8693).
    extraTokenClaims: (_context, { clientId }) => (clientId === 'ci' ? { act: { sub: 'portal' } } : undefined),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => ({
          scope: '',
          audience: resource,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
  });
  handle = provider.callback();
}

async function token(client, resource) {
  const answer = await fetch(`${issuer}/token`, {
    method: 'POST',
    headers: { authorization: `Basic ${Buffer.from(`${client}:${SECRET}`).toString('base64')}` },
    body: new URLSearchParams({ grant_type: 'client_credentials', resource }),
  });
  const said = await answer.json();
  if (!said.access_token) throw new Error(JSON.stringify(said));
  return said.access_token;
}

const commands = {
  token,
  rotate: () => publish([newKey(), ...keys]),
  retire: () => publish(keys.slice(0, 1)),
  clock: (seconds) => {
    offset = Number(seconds) * 1000;
  },
};

publish(keys);
const tls = { cert: readFileSync(certificate), key: readFileSync(key) };
createServer(tls, (request, response) => handle(request, response)).listen(Number(port), async () => {
  console.log(`serves ${issuer}`);
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, ...rest] = line.trim().split(/\s+/);
    try {
      console.log((await commands[name](...rest)) ?? 'done');
    } catch (error) {
      console.log(`failed: ${error}`);
    }
  }
  process.exit(0);
});
