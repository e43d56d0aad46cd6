// SPDX-License-Identifier: Apache-2.0
// Frames: the messages of a migration channel. All numbers are little-endian.
//
//   0   4  magic "BTNF"
//   4   2  protocol version (1)
//   6   2  type: what the payload is, a matter of the two ends
//   8   4  flags: bit 0, the frame has a meaning without its file descriptors too
//   12  4  sequence number: 0 for the first frame of a direction, then one more with each, modulo 2^32
//   16  4  payload size in bytes
//   20  2  how many file descriptors come with the first byte of the frame
//   22  2  reserved, zero
//   24  4  reserved, zero
//   28  4  CRC-32 of the 28 bytes above
//   32  -  payload
//
// The payload has no checksum: a stream socket loses and changes nothing, and what is carried (a state image) has its own.
import { MAX_IMAGE_SIZE_BYTES } from "../../state/format.ts";

export const FRAME_HEADER_SIZE_BYTES = 32;
export const FRAME_MAGIC = 0x464e_5442;
export const FRAME_VERSION = 1;
export const FRAME_MAGIC_OFFSET = 0;
export const FRAME_VERSION_OFFSET = 4;
export const FRAME_TYPE_OFFSET = 6;
export const FRAME_FLAGS_OFFSET = 8;
export const FRAME_SEQUENCE_OFFSET = 12;
export const FRAME_PAYLOAD_SIZE_OFFSET = 16;
export const FRAME_FD_COUNT_OFFSET = 20;
export const FRAME_RESERVED_OFFSET = 22;
export const FRAME_CRC_OFFSET = 28;

/** A relay between two unix sockets passes bytes on, and no file descriptors. */
export const FLAG_FDS_OPTIONAL = 1;

/** What a payload may have at most when nobody says otherwise: a state image and something to go with it. */
export const MAX_PAYLOAD_SIZE_BYTES = MAX_IMAGE_SIZE_BYTES + 4096;

/** One message. The fds are close-on-exec, and the receiver's to close. */
export interface Frame {
  type: number;
  payload: Uint8Array;
  fds: number[];
}
