// SPDX-License-Identifier: Apache-2.0
// Commands about the machine.
import { QmpError } from "../errors.ts";
import type { AcceleratorInfo, KvmInfo } from "../schema/machine.ts";
import type { QmpTarget } from "../target.ts";
import type { Handlers } from "./handler.ts";

const NO_UUID = "00000000-0000-0000-0000-000000000000";

/** Starts the vCPUs unless the state of the machine is still on its way to somebody else. */
export async function cont(target: QmpTarget): Promise<void> {
  if (target.status() === "finish-migrate") throw new QmpError("Migration is not finalized yet");
  await target.cont();
}

/** Wakes a suspended guest. */
export async function wakeup(target: QmpTarget): Promise<void> {
  if (target.status() !== "suspended") {
    throw new QmpError("Unable to wake up: guest is not in suspended state");
  }
  await target.wakeup();
}

/** `present` is not this machine's, as in QEMU: there is code for it. */
export function kvmInfo({ enabled, present }: AcceleratorInfo): KvmInfo {
  return { enabled: enabled === "kvm", present: present.includes("kvm") };
}

export const machineCommands: Handlers<
  | "query-status"
  | "query-name"
  | "query-uuid"
  | "query-kvm"
  | "query-accelerators"
  | "query-target"
  | "query-cpus-fast"
  | "query-chardev"
  | "query-memdev"
  | "query-memory-size-summary"
  | "query-sandbox"
  | "stop"
  | "cont"
  | "quit"
  | "system_reset"
  | "system_powerdown"
  | "system_wakeup"
  | "query-device-modules"
  | "device-module-swap"
> = {
  "query-status"({ target }) {
    const status = target.status();
    return { status, running: status === "running" };
  },
  "query-name": ({ target }) => (target.name === undefined ? {} : { name: target.name }),
  "query-uuid": ({ target }) => ({ UUID: target.uuid ?? NO_UUID }),
  "query-kvm": ({ target }) => kvmInfo(target.accelerators()),
  "query-accelerators": ({ target }) => target.accelerators(),
  "query-target": () => ({ arch: "x86_64" }),
  "query-cpus-fast": ({ target }) => target.cpus(),
  "query-chardev": ({ target }) => target.chardevs(),
  "query-memdev": ({ target }) => target.memdevs(),
  "query-memory-size-summary": ({ target }) => target.memory(),

  "query-sandbox": ({ target }) => target.sandbox(),

  stop: ({ target }) => target.stop(),
  cont: ({ target }) => cont(target),
  quit: ({ target }) => target.quit(),
  system_reset: ({ target }) => target.reset(),
  system_powerdown: ({ target }) => target.powerdown(),
  system_wakeup: ({ target }) => wakeup(target),

  "query-device-modules": ({ target }) => target.deviceModules(),
  "device-module-swap": ({ target }, swap) => target.swapDeviceModule(swap),
};
