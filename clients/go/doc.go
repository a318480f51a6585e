// Package credbroker is the client of the credential broker of https://credbroker.dev: short-lived credentials for
// sandboxed processes, over gRPC on a Unix domain socket.
//
// A program that was started by `credbroker run` finds its broker in the environment:
//
//	client, err := credbroker.FromEnv()
//	if err != nil { ... }
//	defer client.Close()
//
// [Client.GetToken] and [Client.GetAPIKey] ask once. A [TokenSource] follows an entry and has a usable token at hand at
// any time; it is an oauth2.TokenSource, and [TokenSource.HTTPClient], [Transport] and [TokenSource.PerRPCCredentials]
// put its token into requests.
//
// # Errors
//
// Whatever the broker refuses is an [*Error] with the machine-readable [Reason] of the protocol. A Reason is an error
// itself, so that errors.Is compares with it:
//
//	if errors.Is(err, credbroker.NeedsLogin) { ... }
//
// # Secrets
//
// Tokens and keys are of the type [Secret], which prints as "REDACTED" in whatever way it is printed, logged or
// marshalled, and [Secret.Reveal] is the only way to its value.
//
// # Time
//
// Whether a token is good is never decided by comparing the broker's wall clock with this process's, which may be wrong
// in a sandbox. The broker says how long a token is good, and the client measures the time since then, by the monotonic
// clock and by the wall clock's own difference (the monotonic clock stands still while a computer sleeps), whichever
// says more.
package credbroker
