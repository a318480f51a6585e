// What is handed out. The secrets are behind accessors, so that printing an object shows none.
import { inspect } from "node:util";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import type { AccessToken as WireToken } from "./gen/credbroker/v1/credential_broker_pb.js";
import { seconds } from "./time.js";

/** @internal The moment on two clocks: the wall's counts suspend but may be set; the monotonic one is the other way round. */
export interface Moment {
  readonly wall: number;
  readonly monotonic: number;
}

/** @internal Now. */
export function now(): Moment {
  return { wall: Date.now(), monotonic: performance.now() };
}

/** How much of its life a token must have left to be used: 5 s, or a tenth if that is less. As on the host. */
const SKEW_SECONDS = 5;
const SKEW_SHARE = 10;

/**
 * A short-lived access token. Printing, inspecting or serializing it shows what it is, but neither `value`, `authorization`
 * nor the values in `extra`.
 */
export class AccessToken {
  /** Usually `Bearer`; as the provider wrote it. */
  readonly tokenType: string;
  /** Space-separated scopes; empty if the provider did not say. */
  readonly scope: string;
  /** Opaque; changes with every new access token of the entry. */
  readonly revision: string;
  /** When it expires, by the host's wall clock; `undefined`: never. For people: a sandbox's clock may be wrong. */
  readonly expireTime: Date | undefined;
  readonly #value: string;
  readonly #extra: Readonly<Record<string, string>>;
  readonly #lifetime: number;
  readonly #since: Moment;

  /** @internal `since`: a moment that is not after the answer was sent. */
  constructor(wire: WireToken, since: Moment) {
    this.tokenType = wire.tokenType;
    this.scope = wire.scope;
    this.revision = wire.revision;
    this.expireTime = wire.expireTime && timestampDate(wire.expireTime);
    this.#value = wire.accessToken;
    this.#extra = { ...wire.extra };
    this.#lifetime = wire.expiresIn === undefined ? Infinity : seconds(wire.expiresIn);
    this.#since = since;
  }

  /** The secret. */
  get value(): string {
    return this.#value;
  }

  /** The value of an `Authorization` header. */
  get authorization(): string {
    const type = /^(bearer)?$/i.test(this.tokenType) ? "Bearer" : this.tokenType;
    return `${type} ${this.#value}`;
  }

  /** Further fields of the provider's answer that the host's configuration names in `extra_fields`. */
  get extra(): Readonly<Record<string, string>> {
    return this.#extra;
  }

  /**
   * How many seconds are left now; 0 if it has expired, `Infinity` if it does not expire. Counted from when it was
   * received, so it is right in a sandbox whose clock is wrong.
   */
  get expiresIn(): number {
    const { wall, monotonic } = now();
    // The longer of both: a clock that was set back, or that stopped during a suspend, prolongs nothing.
    const passed = Math.max(wall - this.#since.wall, monotonic - this.#since.monotonic) / 1000;
    return Math.max(0, this.#lifetime - passed);
  }

  /** Whether enough of its life is left for a request. */
  get usable(): boolean {
    return this.#lifetime === Infinity || this.expiresIn > Math.min(SKEW_SECONDS, this.#lifetime / SKEW_SHARE);
  }

  toString(): string {
    return "AccessToken(redacted)";
  }

  /** What may be written down. */
  toJSON(): { tokenType: string; scope: string; revision: string; expireTime: string | null } {
    const { tokenType, scope, revision } = this;
    return { tokenType, scope, revision, expireTime: this.expireTime?.toISOString() ?? null };
  }

  [inspect.custom](): string {
    return `AccessToken(redacted) ${inspect(this.toJSON())}`;
  }
}

/** An API key. Printing, inspecting or serializing it does not show `value`. */
export class ApiKey {
  /** Its name at the broker. */
  readonly name: string;
  readonly #value: string;

  /** @internal */
  constructor(name: string, value: string) {
    this.name = name;
    this.#value = value;
  }

  /** The secret. */
  get value(): string {
    return this.#value;
  }

  toString(): string {
    return "ApiKey(redacted)";
  }

  /** What may be written down. */
  toJSON(): { name: string } {
    return { name: this.name };
  }

  [inspect.custom](): string {
    return `ApiKey(redacted) ${inspect(this.toJSON())}`;
  }
}
