// SPDX-License-Identifier: Apache-2.0
// Numbers and layouts of /dev/liveupdate: <linux/liveupdate.h> of Linux 6.19 to 7.2, each written once.
//
// Its kernel document calls the interface not yet stable; every struct begins with its own size, and a kernel that knows
// a longer one takes the shorter.

export const LIVEUPDATE_DEVICE = "/dev/liveupdate";

/** ioctl request numbers: _IO(0xBA, …), which carry no size. The first two are the device's, the others a session's. */
export const LIVEUPDATE_IOCTL_CREATE_SESSION = 0xba00;
export const LIVEUPDATE_IOCTL_RETRIEVE_SESSION = 0xba01;
export const LIVEUPDATE_SESSION_PRESERVE_FD = 0xba40;
export const LIVEUPDATE_SESSION_RETRIEVE_FD = 0xba41;
export const LIVEUPDATE_SESSION_FINISH = 0xba42;

/** With the NUL that ends it. */
export const LIVEUPDATE_SESSION_NAME_LENGTH = 64;

/** struct liveupdate_ioctl_create_session, _retrieve_session: u32 size; s32 fd (out); u8 name[64]. */
const SESSION_SIZE_BYTES = 8 + LIVEUPDATE_SESSION_NAME_LENGTH;
const SESSION_NAME = 8;
/** struct liveupdate_session_preserve_fd, _retrieve_fd: u32 size; s32 fd (in, out); u64 token. */
const SESSION_FD_SIZE_BYTES = 16;
const SESSION_FD_TOKEN = 8;
/** struct liveupdate_session_finish: u32 size; u32 reserved. */
const SESSION_FINISH_SIZE_BYTES = 8;
/** Where all of them have `fd`. */
const FD = 4;

function struct(sizeBytes: number): DataView {
  const view = new DataView(new ArrayBuffer(sizeBytes));
  view.setUint32(0, sizeBytes, true);
  return view;
}

/** What CREATE_SESSION and RETRIEVE_SESSION take. @throws RangeError for a name that does not fit or has a NUL in it */
export function sessionStruct(name: string): Uint8Array {
  const bytes = new TextEncoder().encode(name);
  if (bytes.length === 0 || bytes.length >= LIVEUPDATE_SESSION_NAME_LENGTH || bytes.includes(0)) {
    throw new RangeError(`Not a session name of 1 to ${LIVEUPDATE_SESSION_NAME_LENGTH - 1} bytes: '${name}'`);
  }
  const raw = new Uint8Array(struct(SESSION_SIZE_BYTES).buffer);
  raw.set(bytes, SESSION_NAME);
  return raw;
}

/** What PRESERVE_FD (with `fd`) and RETRIEVE_FD (without) take. */
export function sessionFdStruct(token: bigint, fd = 0): Uint8Array {
  const view = struct(SESSION_FD_SIZE_BYTES);
  view.setInt32(FD, fd, true);
  view.setBigUint64(SESSION_FD_TOKEN, token, true);
  return new Uint8Array(view.buffer);
}

export function sessionFinishStruct(): Uint8Array {
  return new Uint8Array(struct(SESSION_FINISH_SIZE_BYTES).buffer);
}

/** The fd that the kernel wrote into a struct. */
export function fdOf(raw: Uint8Array): number {
  return new DataView(raw.buffer, raw.byteOffset).getInt32(FD, true);
}
