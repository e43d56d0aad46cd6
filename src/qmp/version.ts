// SPDX-License-Identifier: Apache-2.0
// What Baton says it is to a QMP client.
import type { VersionInfo } from "./schema/control.ts";

/**
 * `qemu` is the release of QEMU whose QMP interface Baton follows, because that is what clients derive behaviour from;
 * who really is there stands in `package`.
 */
export function versionInfo(batonVersion: string): VersionInfo {
  return { qemu: { micro: 3, minor: 1, major: 11 }, package: `baton ${batonVersion}` };
}
