// What is made for the wire.
import { create } from "@bufbuild/protobuf";
import { DurationSchema, type Duration } from "@bufbuild/protobuf/wkt";
import { errorOf } from "./errors.js";

/** The longest duration that there is on the wire: about 10,000 years. */
const LONGEST_SECONDS = 315_576_000_000;

/** Seconds as a duration of the wire. */
export function duration(field: string, value: number): Duration {
  if (!(Math.abs(value) <= LONGEST_SECONDS)) {
    throw invalid(field, `must be a number of seconds, not ${value}`);
  }
  const whole = Math.trunc(value);
  return create(DurationSchema, { seconds: BigInt(whole), nanos: Math.trunc((value - whole) * 1e9) });
}

/** The longest time that a timer can wait. */
const LONGEST_MS = 2 ** 31 - 1;

/** Milliseconds that a call may take. */
export function timeout(ms: number): number {
  if (!(ms > 0 && ms <= LONGEST_MS)) {
    throw invalid("timeoutMs", `must be a number of milliseconds up to ${LONGEST_MS}, not ${ms}`);
  }
  return ms;
}

/** An argument that cannot be sent. */
export function invalid(field: string, description: string) {
  return errorOf("INVALID_REQUEST", `${field} ${description}`, {
    code: "INVALID_ARGUMENT",
    metadata: { field },
    violations: [{ field, description }],
  });
}
