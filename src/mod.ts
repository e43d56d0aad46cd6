// SPDX-License-Identifier: Apache-2.0
// Baton as a library: build a VM, control it, hear of what happens to it.
import { monotonicMs } from "../ffi/clock.ts";
import { configOptions } from "./config/config-options.ts";
import { interpretOptions } from "./config/interpret.ts";
import { resolve } from "./config/resolve.ts";
import type { VmConfig } from "./config/vm-config.ts";
import type { VmHandle } from "./machine/handle.ts";
import { startVm } from "./machine/start.ts";
import { resumeFromExec, takeHandover } from "./migration/cpr-incoming.ts";
import { connectResumed } from "./migration/cpr-resumed.ts";

export type { MachineSpec } from "./config/types.ts";
export type { VmConfig } from "./config/vm-config.ts";
export { describeError, VmmError } from "./errors.ts";
export type { VmHandle } from "./machine/handle.ts";
export type { VmExit } from "./machine/vm.ts";
export type { QmpEvent } from "./qmp/events.ts";
export { VERSION } from "./version.ts";

/**
 * Creates a VM in this process. The guest starts at once, unless the configuration has `S: true`.
 *
 * A program that calls this can be updated like `baton` itself: when an update by cpr-exec has started it, the running
 * guest is taken over instead, whatever `config` says, because the topology travels with the guest. Call it early: the
 * guest stands until then.
 *
 * @throws VmmError naming what is wrong with the configuration, or what the host lacks
 * @example
 * await using vm = await createVm({ m: "256M", kernel: "vmlinuz", append: "console=ttyS0", serial: "stdio" });
 * for await (const event of vm.events()) console.log(event.event);
 */
export async function createVm(config: VmConfig, options: { signal?: AbortSignal } = {}): Promise<VmHandle> {
  options.signal?.throwIfAborted();
  const handover = takeHandover(process.env);
  const handle =
    handover === undefined
      ? await startConfigured(config)
      : connectResumed(await resumeFromExec(handover, monotonicMs(), []));
  if (options.signal?.aborted) {
    await handle.close();
    options.signal.throwIfAborted();
  }
  options.signal?.addEventListener("abort", () => void handle.close(), { once: true });
  return handle;
}

function startConfigured(config: VmConfig): Promise<VmHandle> {
  const wanted = interpretOptions(configOptions(config));
  return startVm(resolve(wanted), { wanted });
}
