// Every line of checks.txt.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import grpc from '@grpc/grpc-js';
import { call, capability, connect, details, load, target } from './client.js';

const client = connect();
const getToken = (provider, options, on = client) => call(on, 'GetToken', { provider }, options);
const getApiKey = (name) => call(client, 'GetApiKey', { name });

async function refused(promise, code, reason, metadata = {}) {
  let found;
  await assert.rejects(promise, (error) => {
    found = details(error);
    assert.equal(error.code, code);
    assert.notEqual(error.details, '');
    assert.deepEqual(found['google.rpc.ErrorInfo'], { reason, domain: 'credbroker.dev', metadata });
    return true;
  });
  return found;
}

const checks = {
  async token() {
    const { token } = await getToken('github');
    assert.deepEqual([token.access_token, token.token_type, token.scope], ['gho_demo', 'bearer', 'repo']);
    assert.ok(token.expires_in.seconds > 3000 && token.expires_in.seconds < 3600);
    assert.ok(Math.abs(token.expire_time.seconds - Date.now() / 1000 - token.expires_in.seconds) < 60);
    assert.notEqual(token.revision, '');
  },
  async 'api key'() {
    assert.equal((await getApiKey('openai')).api_key, 'sk-demo');
  },
  async 'no refresh token'() {
    assert.ok(!JSON.stringify(await getToken('github')).includes('ghr_never'));
    const definitions = load('credbroker/v1/credential_broker.proto', process.env.PROTO_DIR);
    const messages = Object.values(definitions).filter((d) => d.type?.field);
    assert.ok(messages.length > 15);
    assert.deepEqual(messages.flatMap((m) => m.type.field).filter((f) => f.name.includes('refresh')), []);
  },
  async lists() {
    assert.deepEqual((await call(client, 'ListProviders', {})).providers, ['github']);
    assert.deepEqual((await call(client, 'ListBuckets', { provider: 'github' })).buckets, ['default']);
    assert.deepEqual((await call(client, 'ListApiKeys', {})).names, ['openai']);
  },
  async 'outside the policy'() {
    const at = { provider: 'gitlab', bucket: 'default' };
    await refused(getToken('gitlab'), grpc.status.PERMISSION_DENIED, 'UNAUTHORIZED', at);
    await refused(getApiKey('anthropic'), grpc.status.PERMISSION_DENIED, 'UNAUTHORIZED', { name: 'anthropic' });
  },
  async 'outside the policy and not stored'() {
    const at = { provider: 'nowhere', bucket: 'default' };
    await refused(getToken('nowhere'), grpc.status.PERMISSION_DENIED, 'UNAUTHORIZED', at);
  },
  async 'no capability'() {
    const metadata = new grpc.Metadata();
    await refused(getToken('github', { metadata }), grpc.status.UNAUTHENTICATED, 'UNAUTHENTICATED');
  },
  async 'wrong capability'() {
    const metadata = capability('0'.repeat(64));
    await refused(getToken('github', { metadata }), grpc.status.UNAUTHENTICATED, 'UNAUTHENTICATED');
  },
  async 'not found'() {
    const at = { provider: 'absent', bucket: 'default' };
    await refused(getToken('absent'), grpc.status.NOT_FOUND, 'NOT_FOUND', at);
    await refused(getApiKey('absent'), grpc.status.NOT_FOUND, 'NOT_FOUND', { name: 'absent' });
  },
  async 'invalid request'() {
    const found = await refused(getToken('../etc'), grpc.status.INVALID_ARGUMENT, 'INVALID_REQUEST', {
      field: 'provider',
    });
    const [violation, ...others] = found['google.rpc.BadRequest'].field_violations;
    assert.equal(violation.field, 'provider');
    assert.notEqual(violation.description, '');
    assert.deepEqual(others, []);
  },
  async 'unknown method'() {
    const plain = new grpc.Client(target, grpc.credentials.createInsecure());
    const same = (bytes) => bytes;
    const answer = new Promise((resolve, reject) => {
      const method = '/credbroker.v1.CredentialBroker/Nothing';
      plain.makeUnaryRequest(method, same, same, Buffer.alloc(0), capability(), (error, value) =>
        error ? reject(error) : resolve(value),
      );
    });
    await refused(answer, grpc.status.UNIMPLEMENTED, 'UNIMPLEMENTED');
    plain.close();
  },
  async 'deadline passed'() {
    await assert.rejects(getToken('github', { deadline: Date.now() - 1 }), { code: grpc.status.DEADLINE_EXCEEDED });
  },
  async 'deadline kept'() {
    assert.equal((await getToken('github', { deadline: Date.now() + 5000 })).token.access_token, 'gho_demo');
  },
  async 'calls in parallel'() {
    const answers = await Promise.all(Array.from({ length: 20 }, () => getToken('github')));
    assert.deepEqual(new Set(answers.map((answer) => answer.token.access_token)), new Set(['gho_demo']));
  },
  async 'second channel'() {
    // grpc-js shares one connection between channels of one target, unless told otherwise.
    const options = { 'grpc.use_local_subchannel_pool': 1 };
    const second = new client.constructor(target, grpc.credentials.createInsecure(), options);
    assert.equal((await getToken('github', {}, second)).token.access_token, 'gho_demo');
    second.close();
  },
  async health() {
    const directory = path.dirname(createRequire(import.meta.url).resolve('grpc-health-check/package.json'));
    const { Health } = grpc.loadPackageDefinition(load('health/v1/health.proto', path.join(directory, 'proto'))).grpc
      .health.v1;
    const health = new Health(target, grpc.credentials.createInsecure());
    for (const service of ['', 'credbroker.v1.CredentialBroker']) {
      const metadata = new grpc.Metadata();
      assert.equal((await call(health, 'Check', { service }, { metadata })).status, 'SERVING');
    }
    health.close();
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log('ok', name);
  } catch (error) {
    process.exitCode = 1;
    console.error(error);
    console.log(`not ok ${name}: ${String(error).replaceAll('\n', ' ')}`);
  }
}
client.close();
