// What can go wrong, by the reasons of the protocol.
import type { Message } from "@bufbuild/protobuf";
import type { GenMessage } from "@bufbuild/protobuf/codegenv2";
import { Code, ConnectError } from "@connectrpc/connect";
import { seconds } from "./time.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

/** The domain that the reasons of the protocol belong to. */
const DOMAIN = "credbroker.dev";

/** Why a call failed, as the broker says it. */
export type BrokerReason =
  | "NOT_FOUND"
  | "INVALID_REQUEST"
  | "MESSAGE_TOO_LARGE"
  | "UNIMPLEMENTED"
  | "RATE_LIMITED"
  | "TOO_MANY_STREAMS"
  | "TOO_MANY_SESSIONS"
  | "UNAUTHENTICATED"
  | "UNAUTHORIZED"
  | "PEER_NOT_ALLOWED"
  | "UNKNOWN_VERSION"
  | "NEEDS_LOGIN"
  | "PROVIDER_NOT_FOUND"
  | "PROVIDER_REJECTED"
  | "PROVIDER_UNAVAILABLE"
  | "LOCK_TIMEOUT"
  | "SHUTTING_DOWN"
  | "DEADLINE_EXCEEDED"
  | "SESSION_NOT_FOUND"
  | "SESSION_EXPIRED"
  | "SESSION_ALREADY_USED"
  | "EXCHANGE_FAILED"
  | "ACCESS_DENIED"
  | "STORE_LOCKED"
  | "STORE_CORRUPT"
  | "STORE_UNAVAILABLE"
  | "INTERNAL_ERROR";

/**
 * Why a call failed before or without an answer of the broker's: the environment or the options are wrong; nobody listens
 * at the socket; the connection broke; this client was closed; what answered gave no reason.
 */
export type LocalReason = "NOT_CONFIGURED" | "CANNOT_CONNECT" | "CONNECTION_LOST" | "CLOSED" | "UNKNOWN";

/** Every reason; a newer broker may have further ones. */
export type Reason = BrokerReason | LocalReason | (string & {});

/** A field of a request that the broker did not accept. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/** @internal The message where the time was over on this side. */
export const LATE = "The credential broker did not answer in time. Try again.";

/** The rest of a failure. */
export interface ErrorFields {
  readonly code?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly retryAfter?: number | undefined;
  readonly violations?: readonly FieldViolation[];
  readonly cause?: unknown;
}

/** Every failure of this package. Decide by `reason`, or by the class; never by the message. */
export class CredbrokerError extends Error {
  /** Why: a name of the protocol's table, or one of {@link LocalReason}. */
  readonly reason: Reason;
  /** The name of the gRPC status code, such as `NOT_FOUND`. */
  readonly code: string;
  /** What the failure is about, such as `provider` and `bucket`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** After how many seconds trying again is worth it, if the broker said so. */
  readonly retryAfter: number | undefined;

  constructor(reason: Reason, message: string, fields: ErrorFields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.name = new.target.name;
    this.reason = reason;
    this.code = fields.code ?? "UNKNOWN";
    this.metadata = fields.metadata ?? {};
    this.retryAfter = fields.retryAfter;
  }

  /** Whether the same call may succeed later although nobody does anything. */
  get transient(): boolean {
    return TRANSIENT.has(this.reason) || (!KNOWN.has(this.reason) && this.code === "UNAVAILABLE");
  }
}

/** NOT_FOUND: no such entry or API key. Log in, or store it on the host. */
export class NotFoundError extends CredbrokerError {}

/** NEEDS_LOGIN: the entry cannot be renewed without a login. */
export class NeedsLoginError extends CredbrokerError {}

/** UNAUTHENTICATED: the capability is missing or wrong. */
export class UnauthenticatedError extends CredbrokerError {}

/** UNAUTHORIZED, PEER_NOT_ALLOWED: the host does not allow it; the message names the flag that would. */
export class UnauthorizedError extends CredbrokerError {}

/** RATE_LIMITED: wait for `retryAfter` seconds, and ask less often. */
export class RateLimitedError extends CredbrokerError {}

/** PROVIDER_UNAVAILABLE, LOCK_TIMEOUT, SHUTTING_DOWN, STORE_UNAVAILABLE, DEADLINE_EXCEEDED: try again later. */
export class UnavailableError extends CredbrokerError {}

/** EXCHANGE_FAILED, ACCESS_DENIED, SESSION_NOT_FOUND, SESSION_EXPIRED, SESSION_ALREADY_USED: begin the login anew. */
export class LoginError extends CredbrokerError {}

/** CANNOT_CONNECT, CONNECTION_LOST: there is no broker at the socket (any more). */
export class ConnectionError extends CredbrokerError {}

/** NOT_CONFIGURED: the environment or the options do not say where the broker is. */
export class ConfigurationError extends CredbrokerError {}

/** INVALID_REQUEST: an argument is missing or malformed. */
export class InvalidRequestError extends CredbrokerError {
  /** What is wrong with which field. */
  readonly violations: readonly FieldViolation[];

  constructor(reason: Reason, message: string, fields: ErrorFields = {}) {
    super(reason, message, fields);
    this.violations = fields.violations ?? [];
  }
}

type ErrorClass = new (reason: Reason, message: string, fields?: ErrorFields) => CredbrokerError;

const CLASSES: Record<BrokerReason | LocalReason, ErrorClass> = {
  NOT_FOUND: NotFoundError,
  INVALID_REQUEST: InvalidRequestError,
  MESSAGE_TOO_LARGE: CredbrokerError,
  UNIMPLEMENTED: CredbrokerError,
  RATE_LIMITED: RateLimitedError,
  TOO_MANY_STREAMS: CredbrokerError,
  TOO_MANY_SESSIONS: CredbrokerError,
  UNAUTHENTICATED: UnauthenticatedError,
  UNAUTHORIZED: UnauthorizedError,
  PEER_NOT_ALLOWED: UnauthorizedError,
  UNKNOWN_VERSION: CredbrokerError,
  NEEDS_LOGIN: NeedsLoginError,
  PROVIDER_NOT_FOUND: CredbrokerError,
  PROVIDER_REJECTED: CredbrokerError,
  PROVIDER_UNAVAILABLE: UnavailableError,
  LOCK_TIMEOUT: UnavailableError,
  SHUTTING_DOWN: UnavailableError,
  DEADLINE_EXCEEDED: UnavailableError,
  SESSION_NOT_FOUND: LoginError,
  SESSION_EXPIRED: LoginError,
  SESSION_ALREADY_USED: LoginError,
  EXCHANGE_FAILED: LoginError,
  ACCESS_DENIED: LoginError,
  STORE_LOCKED: CredbrokerError,
  STORE_CORRUPT: CredbrokerError,
  STORE_UNAVAILABLE: UnavailableError,
  INTERNAL_ERROR: CredbrokerError,
  NOT_CONFIGURED: ConfigurationError,
  CANNOT_CONNECT: ConnectionError,
  CONNECTION_LOST: ConnectionError,
  CLOSED: CredbrokerError,
  UNKNOWN: CredbrokerError,
};

const KNOWN: ReadonlySet<string> = new Set(Object.keys(CLASSES));

const TRANSIENT: ReadonlySet<string> = new Set<BrokerReason | LocalReason>([
  "RATE_LIMITED",
  "TOO_MANY_STREAMS",
  "TOO_MANY_SESSIONS",
  "PROVIDER_UNAVAILABLE",
  "LOCK_TIMEOUT",
  "SHUTTING_DOWN",
  "DEADLINE_EXCEEDED",
  "STORE_LOCKED",
  "STORE_UNAVAILABLE",
  "CANNOT_CONNECT",
  "CONNECTION_LOST",
]);

/** @internal The error of the class that the reason has. */
export function errorOf(reason: Reason, message: string, fields: ErrorFields = {}): CredbrokerError {
  const Class = KNOWN.has(reason) ? CLASSES[reason as BrokerReason | LocalReason] : CredbrokerError;
  return new Class(reason, message, fields);
}

/** @internal What a failed call means. `socket` is for the messages. */
export function fromCall(failure: unknown, socket: string): CredbrokerError {
  if (failure instanceof CredbrokerError) {
    return failure;
  }
  const error = ConnectError.from(failure);
  const code = codeName(error.code);
  const info = details(error, ErrorInfoSchema).find((info) => info.domain === DOMAIN);
  if (info !== undefined) {
    const retry = details(error, RetryInfoSchema)[0]?.retryDelay;
    const violations = details(error, BadRequestSchema).flatMap((bad) => bad.fieldViolations);
    return errorOf(info.reason, error.rawMessage, {
      code,
      metadata: { ...info.metadata },
      retryAfter: retry && seconds(retry),
      violations: violations.map(({ field, description }) => ({ field, description })),
    });
  }
  const system = systemError(error);
  if (system?.syscall === "connect") {
    const why = system.code === undefined ? "" : ` (${system.code})`;
    const message = `Cannot connect to the credential broker at ${socket}${why}. Ensure the sandbox was started correctly.`;
    return errorOf("CANNOT_CONNECT", message, { code: "UNAVAILABLE", cause: error });
  }
  if (error.code === Code.DeadlineExceeded) {
    return errorOf("DEADLINE_EXCEEDED", LATE, { code, cause: error });
  }
  if (system !== undefined || BROKEN.has(error.code)) {
    const message = `The connection to the credential broker at ${socket} was lost.`;
    return errorOf("CONNECTION_LOST", message, { code: "UNAVAILABLE", cause: error });
  }
  return errorOf("UNKNOWN", error.rawMessage, { code, cause: error });
}

/** Without a reason of the broker's, these come from this side: the stream or the connection was cut. */
const BROKEN: ReadonlySet<Code> = new Set([Code.Canceled, Code.Aborted, Code.Unavailable, Code.Internal]);

/** The details of one type. One that cannot be read is left out. */
function details<T extends Message>(error: ConnectError, schema: GenMessage<T>): T[] {
  return error.findDetails(schema);
}

/** `NotFound` to `NOT_FOUND`, as gRPC writes it. */
function codeName(code: Code): string {
  return code === Code.Canceled ? "CANCELLED" : Code[code].replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
}

/** The error of the operating system, or of Node's, that is behind a failed call. */
function systemError(error: unknown): NodeJS.ErrnoException | undefined {
  for (let depth = 0; error instanceof Error && depth < 8; depth++) {
    if (!(error instanceof ConnectError) && typeof (error as NodeJS.ErrnoException).code === "string") {
      return error;
    }
    error = error.cause;
  }
  return undefined;
}
