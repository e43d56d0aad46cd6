// SPDX-License-Identifier: Apache-2.0
// Baton as a program that meets with one fault while it takes over a guest.
//
//   BATON_CHAOS   FAULT@PHASE
//     PHASE       start: before the first line; built: the VM is there, without its state; restored: with it
//     FAULT       kill, exit, segv     the process ends
//                 stop                 it stands still for ever
//                 slow                 it takes 300 ms longer
//                 no-fds, no-memory    it gets no more of these
//                 clock-ahead, -back   the host's clock is set by an hour
//                 flip, cut            start of an update by cpr-exec only: the state image it finds is damaged
import { closeSync, fstatSync, openSync, readdirSync, readFileSync, readSync, writeSync } from "node:fs";
import { close, duplicateTo, setCloseOnExec, truncate } from "../../ffi/fd.ts";
import { sleep } from "../../ffi/futex.ts";
import { check, lazyCall } from "../../ffi/libc.ts";
import { memfdCreate } from "../../ffi/memfd.ts";
import { KvmAcceleratedVm } from "../../src/accel/kvm/vm.ts";
import type { AcceleratedVm } from "../../src/accel/types.ts";
import { EngineVm } from "../../src/accel/wasm/vm.ts";
import { DeviceSet } from "../../src/machine/device-set.ts";
import { stepClock } from "./clock.ts";

const SLOW_MS = 300;
/** asm-generic/resource.h */
const RLIMIT_NOFILE = 7;
const RLIMIT_AS = 9;
const PAGE_SIZE_BYTES = 4096;
const SPARE_MEMORY_BYTES = 4 << 20;

const cSetrlimit = lazyCall("int setrlimit(int resource, const void *limit)");
const cGetrlimit = lazyCall("int getrlimit(int resource, void *limit)");

function limit(resource: number, value: number): void {
  const both = new BigUint64Array(2);
  check("getrlimit", cGetrlimit(resource, both));
  both[0] = BigInt(value);
  check("setrlimit", cSetrlimit(resource, both));
}

const { BATON_CHAOS, BATON_CPR_EXEC_STATE, BATON_CPR_EXEC_ERROR, BATON_RELAY } = process.env;
delete process.env.BATON_CHAOS;
const [fault, phase] = (BATON_CHAOS ?? "").split("@");
const isExec = BATON_CPR_EXEC_STATE !== undefined;
const isIncoming = process.argv.includes("-incoming") && BATON_RELAY === undefined;
const isNew = (isExec && BATON_CPR_EXEC_ERROR === undefined) || (!isExec && isIncoming);
let isDone = !isNew;

function comeTo(name: string): void {
  if (isDone || name !== phase) return;
  isDone = true;
  switch (fault) {
    case "kill":
      process.kill(process.pid, "SIGKILL");
      break;
    case "exit":
      process.exit(7);
      break;
    case "segv":
      process.kill(process.pid, "SIGSEGV");
      break;
    case "stop":
      process.kill(process.pid, "SIGSTOP");
      break;
    case "slow":
      sleep(SLOW_MS);
      break;
    case "no-fds":
      limit(RLIMIT_NOFILE, lowestFreeFd());
      break;
    case "no-memory": {
      const [pages] = readFileSync("/proc/self/statm", "latin1").split(" ");
      limit(RLIMIT_AS, Number(pages) * PAGE_SIZE_BYTES + SPARE_MEMORY_BYTES);
      break;
    }
    case "clock-ahead":
    case "clock-back":
      stepClock(fault);
      break;
    case "flip":
    case "cut":
      damageState(fault);
      break;
    default:
      throw new Error(`BATON_CHAOS asks for '${fault}'`);
  }
}

function lowestFreeFd(): number {
  const open = new Set(readdirSync("/proc/self/fd").map(Number));
  let fd = 0;
  while (open.has(fd)) fd++;
  return fd;
}

/** Puts a damaged copy in the place of the state image; the image itself is sealed. */
function damageState(how: "flip" | "cut"): void {
  const stateFd = Number(BATON_CPR_EXEC_STATE!.split(":")[0]);
  const path = `/proc/self/fd/${stateFd}`;
  const source = openSync(path, "r");
  const image = new Uint8Array(fstatSync(source).size);
  readSync(source, image, 0, image.length, 0);
  closeSync(source);
  const at = Date.now() % image.length;
  if (how === "flip") image[at] = image[at]! ^ 1;
  const copy = memfdCreate("baton-damaged-state", 0);
  const target = openSync(`/proc/self/fd/${copy}`, "r+");
  writeSync(target, image, 0, image.length, 0);
  closeSync(target);
  if (how === "cut") truncate(copy, at);
  duplicateTo(copy, stateFd);
  setCloseOnExec(stateFd, false);
  close(copy);
}

const { restoreState: restoreDevices } = DeviceSet.prototype;
DeviceSet.prototype.restoreState = function (...args) {
  comeTo("built");
  restoreDevices.apply(this, args);
};
const acceleratedVms: AcceleratedVm[] = [KvmAcceleratedVm.prototype, EngineVm.prototype];
for (const prototype of acceleratedVms) {
  const { restoreState } = prototype;
  prototype.restoreState = function (...args) {
    restoreState.apply(this, args);
    comeTo("restored");
  };
}

comeTo("start");
await import("../../src/cli/main.ts");
