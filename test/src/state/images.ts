// SPDX-License-Identifier: Apache-2.0
// State images for tests: whole ones, and ones that are wrong in one place and right in all others.

import { crc32 } from "../../../src/runtime/checksum.ts";
import { ARCHITECTURE, CRC_OFFSET, CRC_START, HEADER_SIZE_BYTES, MAGIC } from "../../../src/state/format.ts";
import { StateWriter } from "../../../src/state/writer.ts";

export const KNOWN = { machine: 1, vcpu: 2 };
export const REGS = Uint8Array.from({ length: 144 }, (_, index) => index);

/** An image with two vCPUs and a JSON section. */
export function makeImage(add: (writer: StateWriter) => void = () => {}): Uint8Array {
  const writer = new StateWriter();
  writer.addJson({ id: "machine", version: 1 }, { cpuCount: 2, name: "größe" });
  for (const instance of [0, 1]) {
    writer.add({ id: "vcpu", instance, version: 2 }, [
      { name: "regs", type: "struct kvm_regs", bytes: REGS.map((byte) => byte + instance) },
      { name: "empty", type: "u8[]", bytes: new Uint8Array(0) },
    ]);
  }
  add(writer);
  writer.lay();
  return writer.seal();
}

/** Puts the right checksum into an image that was changed. */
export function reseal(image: Uint8Array): Uint8Array {
  new DataView(image.buffer, image.byteOffset).setUint32(CRC_OFFSET, crc32(image.subarray(CRC_START)), true);
  return image;
}

/** A copy of an image with a change, and the checksum for it. */
export function changed(image: Uint8Array, change: (view: DataView, bytes: Uint8Array) => void): Uint8Array {
  const copy = image.slice();
  change(new DataView(copy.buffer), copy);
  return reseal(copy);
}

/** An image with this text as its directory and nothing behind it. */
export function withDirectory(directory: string): Uint8Array {
  const text = new TextEncoder().encode(directory);
  const image = new Uint8Array(HEADER_SIZE_BYTES + text.length);
  const view = new DataView(image.buffer);
  image.set(new TextEncoder().encode(MAGIC));
  view.setUint32(8, 1, true);
  view.setBigUint64(16, BigInt(image.length), true);
  view.setUint32(24, text.length, true);
  image.set(new TextEncoder().encode(ARCHITECTURE), 32);
  image.set(text, HEADER_SIZE_BYTES);
  return reseal(image);
}
