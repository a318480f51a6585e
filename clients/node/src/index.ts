/**
 * Client of credbroker: short-lived credentials in a sandbox, always fresh.
 *
 * @packageDocumentation
 */
export {
  Broker,
  type BrokerOptions,
  type BucketStats,
  type CallOptions,
  type EntryOptions,
  type GetTokenOptions,
  type Revocation,
  type SavedToken,
  type ServerInfo,
} from "./broker.js";
export {
  ConfigurationError,
  ConnectionError,
  CredbrokerError,
  InvalidRequestError,
  LoginError,
  NeedsLoginError,
  NotFoundError,
  RateLimitedError,
  UnauthenticatedError,
  UnauthorizedError,
  UnavailableError,
  type BrokerReason,
  type FieldViolation,
  type LocalReason,
  type Reason,
} from "./errors.js";
export { authorizedFetch, type AuthorizedFetchOptions } from "./fetch.js";
export type { LoginFlow, LoginOptions, LoginPrompt, ShowPrompt } from "./login.js";
export type { SourceOptions, TokenSource } from "./source.js";
export type { AccessToken, ApiKey } from "./token.js";
