// SPDX-License-Identifier: Apache-2.0
// A program that is sent more fds than it may open, for fd-limit.test.ts: prints what came of it, as JSON.
import { receiveAvailable, SCM_MAX_FD, sendMessage } from "../../../../ffi/scm.ts";
import { describeError } from "../../../../src/errors.ts";
import { FrameReader } from "../../../../src/migration/channel/frame-reader.ts";
import { bytes, openFdCount } from "../../../ffi/support.ts";
import { rawFrame, transportPair } from "./support.ts";

const [one, other] = transportPair();
const many = Array<number>(SCM_MAX_FD).fill(one.fd);
const before = openFdCount();

sendMessage(one.fd, bytes("command"), many);
const message = receiveAvailable(other.fd, new Uint8Array(16));

sendMessage(one.fd, rawFrame(bytes("x"), { fdCount: SCM_MAX_FD }), many);
let refusal = "";
try {
  new FrameReader("unix:other", true).read(other.fd, 1024);
} catch (error) {
  refusal = describeError(error);
}
console.log(JSON.stringify({ message, refusal, leaked: openFdCount() - before }));
