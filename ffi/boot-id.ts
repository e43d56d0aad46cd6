// SPDX-License-Identifier: Apache-2.0
// Which boot of which host this is.
import { close, O_RDONLY, open, read } from "./fd.ts";

/** proc_sys_kernel(5): a UUID, as text, that the kernel makes once for each boot. */
const PATH = "/proc/sys/kernel/random/boot_id";
export const BOOT_ID_SIZE_BYTES = 36;

/** The UUID's ASCII characters. Within one boot CLOCK_MONOTONIC and the TSC go on in all processes. @throws SysError */
export function bootId(): Uint8Array {
  const id = new Uint8Array(BOOT_ID_SIZE_BYTES);
  const fd = open(PATH, O_RDONLY);
  try {
    const count = read(fd, id);
    if (count !== BOOT_ID_SIZE_BYTES) throw new Error(`${PATH} has ${count} bytes instead of ${BOOT_ID_SIZE_BYTES}`);
  } finally {
    close(fd);
  }
  return id;
}
