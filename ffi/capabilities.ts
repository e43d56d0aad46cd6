// SPDX-License-Identifier: Apache-2.0
// Giving up what root may do, capabilities(7), linux/capability.h.
import { check, lazyCall } from "./libc.ts";

const LINUX_CAPABILITY_VERSION_3 = 0x2008_0522;

const cCapset = lazyCall("int capset(const void *header, const void *data)");

/** The calling thread has no capability any more; with `setNoNewPrivileges`, an exec gives it none back. */
export function dropCapabilities(): void {
  // struct __user_cap_header_struct: version and pid; two struct __user_cap_data_struct of three words.
  check("capset", cCapset(Uint32Array.of(LINUX_CAPABILITY_VERSION_3, 0), new Uint32Array(6)));
}
