// The broker as a program in a sandbox sees it.
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { closed, Connection, type Address } from "./connection.js";
import { ConfigurationError, errorOf, LATE } from "./errors.js";
import {
  Revocation as WireRevocation,
  type AccessToken as WireToken,
} from "./gen/credbroker/v1/credential_broker_pb.js";
import { login, type Call, type LoginOptions, type Make } from "./login.js";
import { TokenSource } from "./source.js";
import { unlessAborted } from "./time.js";
import { AccessToken, ApiKey, now, type Moment } from "./token.js";
import { duration, timeout } from "./wire.js";

/** The version of the protocol that this package speaks. */
const PROTOCOL_VERSION = 1;
/** How long a call may take if nobody says; the broker itself answers within 20 s. */
const TIMEOUT_MS = 30_000;
/** How long the path of a Unix socket can be. Some versions of Node cut a longer one, and connect to another socket. */
const LONGEST_PATH = process.platform === "linux" ? 107 : 103;
/** How many streams share a connection of their own; the broker allows 64. */
const STREAMS_PER_CONNECTION = 60;

/** Where the broker is. */
export interface BrokerOptions {
  /** The path of the socket; absent: `CREDBROKER_SOCKET`, with the capability in `CREDBROKER_CAPABILITY`. */
  readonly socket?: string | undefined;
  /** The capability of the broker at `socket`: 64 hexadecimal digits. Absent where the broker asks for none. */
  readonly capability?: string | undefined;
  /** How long a call may take, in milliseconds; 30 s if it is absent. */
  readonly timeoutMs?: number | undefined;
}

/** Options of every call. */
export interface CallOptions {
  /** Gives the call up; it is rejected with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** How long the call may take, in milliseconds. */
  readonly timeoutMs?: number | undefined;
}

/** Options of calls for one entry. */
export interface EntryOptions extends CallOptions {
  /** The account at the provider; `default` if it is absent. */
  readonly bucket?: string | undefined;
}

/** Options of {@link Broker.getToken}. */
export interface GetTokenOptions extends EntryOptions {
  /** For how many seconds the token shall still be valid; the broker caps it at half the token's lifetime. */
  readonly minValidity?: number | undefined;
}

/** An access token that is to be saved. */
export interface SavedToken {
  /** The secret. */
  readonly value: string;
  /** How many seconds it is valid; absent: it does not expire. */
  readonly expiresIn?: number | undefined;
  /** Absent: `Bearer`. */
  readonly tokenType?: string | undefined;
  /** Space-separated scopes. */
  readonly scope?: string | undefined;
}

/** How often this broker delivered the token of a bucket since it started. */
export interface BucketStats {
  readonly bucket: string;
  readonly requestCount: number;
  /** The bucket's share of the deliveries of the provider's buckets: 0 to 100. */
  readonly percentage: number;
  /** The last delivery; `undefined`: there was none. */
  readonly lastUsed: Date | undefined;
}

/** What became of a removed token at the provider. */
export type Revocation = "not_supported" | "done" | "failed" | "pending" | "unspecified";

/** The broker about itself. */
export interface ServerInfo {
  /** The protocol version, 1. */
  readonly version: number;
  /** The broker's own version, for people. */
  readonly serverVersion: string;
  /** What it offers beyond the first version of the protocol. */
  readonly features: readonly string[];
}

/**
 * The credential broker of this sandbox. It connects at the first call, and anew after the connection was lost.
 *
 * ```js
 * const broker = new Broker();
 * const token = await broker.getToken("github");
 * ```
 */
export class Broker {
  readonly #address: Address;
  readonly #timeoutMs: number;
  readonly #calls: Connection;
  /** Connections of token sources: they keep no process alive. */
  #background: Connection[] = [];
  #agreed = false;
  #agreeing: Promise<void> | undefined;
  #closed = false;

  /** Fails with {@link ConfigurationError} if nothing says where the broker is. */
  constructor({ socket, capability, timeoutMs = TIMEOUT_MS }: BrokerOptions = {}) {
    this.#address = socket === undefined ? fromEnvironment() : checked(socket, capability, "capability");
    this.#timeoutMs = timeout(timeoutMs);
    this.#calls = new Connection(this.#address);
  }

  /** A usable access token. To use it for longer than its life, take a {@link tokenSource}. */
  async getToken(provider: string, options: GetTokenOptions = {}): Promise<AccessToken> {
    const { bucket = "", minValidity } = options;
    const request = {
      provider,
      bucket,
      ...(minValidity === undefined ? {} : { minValidity: duration("min_validity", minValidity) }),
    };
    return this.#token((client, options) => client.getToken(request, options), options);
  }

  /**
   * Refreshes the entry now, for a client whose token was refused where it was used. `revision` is that of the refused
   * token: if the entry has another one by now, that is the answer. Absent: whatever the entry has is refreshed.
   */
  async refreshToken(
    provider: string,
    options: EntryOptions & { readonly revision?: string | undefined } = {},
  ): Promise<AccessToken> {
    const { bucket = "", revision = "" } = options;
    return this.#token((client, options) => client.refreshToken({ provider, bucket, revision }, options), options);
  }

  /** The newest access token of an entry, kept fresh by a stream in the background. */
  tokenSource(provider: string, { bucket = "" }: { readonly bucket?: string | undefined } = {}): TokenSource {
    return new TokenSource({
      get: () => this.getToken(provider, { bucket }),
      refresh: (revision) => this.refreshToken(provider, { bucket, revision }),
      watch: (signal) => this.#watch(this.#backgroundConnection(), provider, bucket, signal),
      closed: () => this.#closed,
    });
  }

  /**
   * Follows an entry: its usable token at once, then each new one. It ends with an error only, such as NOT_FOUND when the
   * entry is removed; {@link tokenSource} is the same with reconnecting. `timeoutMs` has no meaning here.
   */
  async *watchToken(
    provider: string,
    { bucket = "", signal }: Omit<EntryOptions, "timeoutMs"> = {},
  ): AsyncGenerator<AccessToken, never> {
    return yield* this.#watch(this.#calls, provider, bucket, signal);
  }

  /** Replaces the access token of an existing entry. Needs the right to save. */
  async saveToken(provider: string, token: SavedToken, options: EntryOptions = {}): Promise<void> {
    const { bucket = "" } = options;
    const wire = {
      accessToken: token.value,
      tokenType: token.tokenType ?? "Bearer",
      scope: token.scope ?? "",
      ...(token.expiresIn === undefined ? {} : { expiresIn: duration("expires_in", token.expiresIn) }),
    };
    await this.#call((client, options) => client.saveToken({ provider, bucket, token: wire }, options), options);
  }

  /** Removes an entry (logout). Needs the right to remove. */
  async removeToken(provider: string, options: EntryOptions = {}): Promise<Revocation> {
    const { bucket = "" } = options;
    const answer = await this.#call((client, options) => client.removeToken({ provider, bucket }, options), options);
    return (WireRevocation[answer.revocation]?.toLowerCase() ?? "unspecified") as Revocation;
  }

  /** An API key by its name. */
  async getApiKey(name: string, options: CallOptions = {}): Promise<ApiKey> {
    const answer = await this.#call((client, options) => client.getApiKey({ name }, options), options);
    return new ApiKey(name, answer.apiKey);
  }

  /** The providers of which at least one readable entry is stored, in order of name. */
  async listProviders(options: CallOptions = {}): Promise<string[]> {
    return this.#pages(async (pageToken) => {
      const page = await this.#call((client, options) => client.listProviders({ pageToken }, options), options);
      return [page.providers, page.nextPageToken];
    });
  }

  /** The readable buckets of a provider, in order of name. */
  async listBuckets(provider: string, options: CallOptions = {}): Promise<string[]> {
    return this.#pages(async (pageToken) => {
      const page = await this.#call((client, options) => client.listBuckets({ provider, pageToken }, options), options);
      return [page.buckets, page.nextPageToken];
    });
  }

  /** The names of the readable API keys, in order of name. */
  async listApiKeys(options: CallOptions = {}): Promise<string[]> {
    return this.#pages(async (pageToken) => {
      const page = await this.#call((client, options) => client.listApiKeys({ pageToken }, options), options);
      return [page.names, page.nextPageToken];
    });
  }

  /** How often a bucket's token was delivered. Asking is not a use. */
  async getBucketStats(provider: string, options: EntryOptions = {}): Promise<BucketStats> {
    const { bucket = "" } = options;
    const { stats } = await this.#call((client, options) => client.getBucketStats({ provider, bucket }, options), options);
    return {
      bucket: stats?.bucket ?? "",
      requestCount: Number(stats?.requestCount ?? 0),
      percentage: stats?.percentage ?? 0,
      lastUsed: stats?.lastUsedTime && timestampDate(stats.lastUsedTime),
    };
  }

  /**
   * Logs in on the host, and resolves when the entry is stored: to its token, or to `undefined` if this sandbox may not
   * read the entry. Needs the right to log in. An aborted login, or one whose prompt throws, is cancelled.
   */
  async login(provider: string, options: LoginOptions): Promise<AccessToken | undefined> {
    let since = now();
    const call: Call = (make, signal) => {
      since = now();
      return this.#call(make, { signal });
    };
    const token = await login(call, provider, options);
    return token && new AccessToken(token, since);
  }

  /** What the broker says about itself. */
  async serverInfo(options: CallOptions = {}): Promise<ServerInfo> {
    const request = { minVersion: PROTOCOL_VERSION, maxVersion: PROTOCOL_VERSION };
    const { signal, timeoutMs = this.#timeoutMs } = options;
    timeout(timeoutMs);
    const { version, serverVersion, features } = await this.#calls.call(
      (client) => client.getServerInfo(request, { timeoutMs, ...(signal && { signal }) }),
      signal,
    );
    return { version, serverVersion, features };
  }

  /** Closes its connections. Whatever is under way, its token sources included, is told CLOSED. */
  close(): void {
    this.#closed = true;
    for (const connection of [this.#calls, ...this.#background]) {
      connection.close();
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** One call, after the versions were agreed on. */
  async #call<T>(make: Make<T>, { signal, timeoutMs = this.#timeoutMs }: CallOptions): Promise<T> {
    timeout(timeoutMs);
    signal?.throwIfAborted();
    if (!this.#agreed) {
      await this.#agreement(timeoutMs, signal);
    }
    return this.#calls.call((client) => make(client, { timeoutMs, ...(signal && { signal }) }), signal);
  }

  /** A call that gives a token. */
  async #token(make: Make<{ token?: WireToken | undefined }>, options: CallOptions): Promise<AccessToken> {
    let since: Moment | undefined;
    const { token } = await this.#call((client, options) => {
      since = now();
      return make(client, options);
    }, options);
    return accessToken(token, since ?? now());
  }

  async *#watch(
    connection: Connection,
    provider: string,
    bucket: string,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<AccessToken, never> {
    if (this.#closed) {
      throw closed();
    }
    const answers = connection.stream((client, options) => client.watchToken({ provider, bucket }, options), signal);
    for await (const { token } of answers) {
      yield accessToken(token, now());
    }
    throw closed(); // Never: the stream ends with an error.
  }

  #backgroundConnection(): Connection {
    let connection = this.#background.find((connection) => connection.streams < STREAMS_PER_CONNECTION);
    if (connection === undefined) {
      connection = new Connection(this.#address, true);
      this.#background.push(connection);
    }
    return connection;
  }

  /** Asks for the version, once for all who call meanwhile; after a failure, again. */
  async #agreement(timeoutMs: number, signal: AbortSignal | undefined): Promise<void> {
    this.#agreeing ??= this.serverInfo()
      .then(() => {
        this.#agreed = true;
      })
      .finally(() => (this.#agreeing = undefined));
    this.#agreeing.catch(() => {}); // Everybody who waits may have gone.
    const late = AbortSignal.timeout(timeoutMs);
    try {
      await unlessAborted(this.#agreeing, signal === undefined ? late : AbortSignal.any([signal, late]));
    } catch (error) {
      throw error === late.reason ? errorOf("DEADLINE_EXCEEDED", LATE, { code: "DEADLINE_EXCEEDED" }) : error;
    }
  }

  async #pages(page: (token: string) => Promise<[string[], string]>): Promise<string[]> {
    const names: string[] = [];
    let token = "";
    do {
      const [some, next] = await page(token);
      names.push(...some);
      if (next !== "" && next === token) {
        throw errorOf("UNKNOWN", "the broker gives the same page again and again");
      }
      token = next;
    } while (token !== "");
    return names;
  }
}

function accessToken(wire: WireToken | undefined, since: Moment): AccessToken {
  if (wire === undefined) {
    throw errorOf("UNKNOWN", "the broker answered without a token");
  }
  return new AccessToken(wire, since);
}

function fromEnvironment(): Address {
  const { CREDBROKER_SOCKET: socket, CREDBROKER_CAPABILITY: capability } = process.env;
  if (!socket) {
    throw new ConfigurationError(
      "NOT_CONFIGURED",
      "CREDBROKER_SOCKET is not set. Start this program with `credbroker run --allow PROVIDER -- COMMAND`.",
    );
  }
  return checked(socket, capability || undefined, "CREDBROKER_CAPABILITY");
}

/** `name` says what the capability is called where it came from; its value is in no message. */
function checked(socket: string, capability: string | undefined, name: string): Address {
  if (socket === "" || socket.includes("\0")) {
    throw new ConfigurationError("NOT_CONFIGURED", "socket must be the path of the broker's socket");
  }
  if (Buffer.byteLength(socket) > LONGEST_PATH) {
    throw new ConfigurationError(
      "NOT_CONFIGURED",
      `the path of a socket can have ${LONGEST_PATH} bytes, and this one has more: ${socket}`,
    );
  }
  if (capability !== undefined && !/^[0-9a-f]{64}$/i.test(capability)) {
    throw new ConfigurationError("NOT_CONFIGURED", `${name} must be 64 hexadecimal digits`);
  }
  return { socket, capability };
}
