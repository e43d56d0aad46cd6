// SPDX-License-Identifier: Apache-2.0
// Baton as a program that dies or hangs at a certain step of a transfer, on either side of it.
//
//   BATON_TEST_FAULT   STEP:SIGNAL. The process sends itself the signal when it comes to the step, once; or, of SLOW, takes
//                      5 ms longer there each time:
//     send N           before it sends the first frame of that type, sent N after it (src/migration/messages.ts)
//     shown N          when all of the image that a frame of that type announced can be seen
//     built            when the machine of a hello is built
//     restored         when the state of the guest has been restored, and not been taken
//     taken, offered   when the fence has been changed
import { KvmAcceleratedVm } from "../../../src/accel/kvm/vm.ts";
import type { AcceleratedVm } from "../../../src/accel/types.ts";
import { EngineVm } from "../../../src/accel/wasm/vm.ts";
import { FrameChannel } from "../../../src/migration/channel/frames.ts";
import { Fence } from "../../../src/migration/fence.ts";
import { SharedImage } from "../../../src/migration/shared-image.ts";

const [wanted = "", signal = "SIGKILL"] = (process.env.BATON_TEST_FAULT ?? "").split(":");
let isDone = false;

function comeTo(step: string): void {
  if (isDone || step !== wanted) return;
  if (signal === "SLOW") {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    return;
  }
  isDone = true;
  process.kill(process.pid, signal);
}

const { send, sendNow } = FrameChannel.prototype;
FrameChannel.prototype.send = async function (type, ...rest) {
  comeTo(`send ${type}`);
  await send.call(this, type, ...rest);
  comeTo(`sent ${type}`);
};
FrameChannel.prototype.sendNow = function (type, ...rest) {
  comeTo(`send ${type}`);
  sendNow.call(this, type, ...rest);
  comeTo(`sent ${type}`);
};

const { send: sendImage } = SharedImage.prototype;
SharedImage.prototype.send = function (channel, planned, options) {
  sendImage.call(this, channel, planned, options);
  comeTo(`shown ${options.type}`);
};

const acceleratedVms: AcceleratedVm[] = [KvmAcceleratedVm.prototype, EngineVm.prototype];
for (const prototype of acceleratedVms) {
  const { prepareToRun, restoreState } = prototype;
  prototype.prepareToRun = async function () {
    await prepareToRun.call(this);
    comeTo("built");
  };
  prototype.restoreState = function (...args) {
    restoreState.apply(this, args);
    comeTo("restored");
  };
}

const { offer, take } = Fence.prototype;
Fence.prototype.offer = function () {
  offer.call(this);
  comeTo("offered");
};
Fence.prototype.take = function () {
  const isTaken = take.call(this);
  comeTo("taken");
  return isTaken;
};

await import("../../../src/cli/main.ts");
