// SPDX-License-Identifier: Apache-2.0
// A program with a stdio device, for stdio.test.ts. It echoes input as `<65>`, and obeys single letters.
import { Buffer } from "node:buffer";
import { exec, planExec } from "../../../ffi/exec.ts";
import { setCloseOnExec } from "../../../ffi/fd.ts";
import type { HostChardev } from "../../../src/backends/chardev/base.ts";
import { create, restore } from "../../../src/backends/chardev/create.ts";
import { Reactor } from "../../../src/runtime/reactor.ts";
import { surviveUncaught } from "../../../src/runtime/uncaught.ts";

const reactor = new Reactor();
const saved = process.env.SAVED;
const signal = process.env.SIGNAL === "on";
const device: HostChardev =
  saved === undefined
    ? create({ backend: "stdio", id: "s", signal }, reactor)
    : restore(JSON.parse(saved), reactor, ({ message }) => say(`!${message}!`));
if (process.env.SURVIVE === "on") surviveUncaught(() => say("survived\n"));

function say(text: string): void {
  device.write(Buffer.from(text));
}

function replaceProgram(): void {
  device.freeze();
  const state = device.save();
  for (const fd of Object.values(state.fds)) setCloseOnExec(fd, false);
  const runtime = process.versions.bun === undefined ? ["run", "-A", "--quiet"] : ["run"];
  const argv = [process.execPath, ...runtime, import.meta.filename];
  exec(planExec({ path: process.execPath }, argv, { ...process.env, SAVED: JSON.stringify(state) }));
}

const orders: Record<string, () => void> = {
  // close
  c: () => {
    device.close();
    void reactor.close();
  },
  // exit
  x: () => process.exit(0),
  // error
  e: () => {
    throw new Error("thrown on purpose");
  },
  // update
  u: replaceProgram,
};

device.attach({
  // One at a time: what follows an order is for whoever comes after it.
  inputSpaceBytes: () => 1,
  receive: (bytes) => {
    say(`<${bytes[0]}>`);
    orders[String.fromCharCode(bytes[0]!)]?.();
  },
});
say(saved === undefined ? "ready\n" : "restored\n");
device.thaw();
