// SPDX-License-Identifier: Apache-2.0
// The parameter `pause-limit`: an update that would have the guest stand for longer is refused, and one that is found to, within
// the pause, is taken back while it can be.
import { VmmError } from "../errors.ts";

const CODE = "pause-limit";

/** @param limitMs 0 for none. @throws VmmError "pause-limit" */
export function refuseLongPause(predictedUs: number, limitMs: number): void {
  if (limitMs === 0 || predictedUs <= limitMs * 1000) return;
  const predicted = (predictedUs / 1000).toFixed(2);
  throw new VmmError(CODE, `The guest would stand for ${predicted} ms, and pause-limit is ${limitMs} ms`);
}

/** Within the pause, before the point of no return. @throws VmmError "pause-limit" when the rest does not fit into it any more */
export function refuseLatePause(elapsedMs: number, restMs: number, limitMs: number): void {
  if (limitMs === 0 || elapsedMs + restMs <= limitMs) return;
  const [stood, rest] = [elapsedMs.toFixed(2), restMs.toFixed(2)];
  throw new VmmError(
    CODE,
    `The guest had stood for ${stood} ms, and would for ${rest} ms more: pause-limit is ${limitMs} ms, so it went on in the old program`,
  );
}

/** The error of a pause that was ended because of its limit; `error` itself when that is not why. */
export function explainTimeout(error: unknown, limitMs: number): unknown {
  if (!(error instanceof VmmError) || error.code !== "peer-silent") return error;
  const message = `The new program was not ready within pause-limit (${limitMs} ms), so the guest went on in the old one`;
  return new VmmError(CODE, message, { cause: error });
}
