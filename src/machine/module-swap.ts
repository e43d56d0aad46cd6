// SPDX-License-Identifier: Apache-2.0
// Replaces the Wasm module of one device under the running guest: `device-module-swap`.
//
//   prepare    file read and checked (module-candidate.ts), tried in a worker (module-trial.ts), instance made
//   ── from here on accesses to this device wait at its gate (module-gate.ts), nothing else does ──
//   quiesce    the gate is closed; who is in the old module leaves it
//   carry      fields by name, as between versions of a saved state (device-fields.ts)
//   commit     the new module is published, the gate opened
//   ── each thread makes an instance of its own at its next access ──
//
// Everything that can fail comes before the state page is changed. The one thing that comes later, a thread that can
// make no instance, has the way back: the same steps with the module before. The trial gets a copy of the state, for which
// the gate is closed for as long as in the end: 0.04 ms.
//
// What a device has besides its fields is not touched: the level of its interrupt line is one of them and stays as the
// line is; output is in a ring, which is the host's; deadlines are asked for again.
import { DEVICE_STRIDE_BYTES } from "../../assembly/layout.ts";
import { realtimeNs } from "../../ffi/clock.ts";
import { SCHED_IDLE, setSchedulingPolicy } from "../../ffi/process.ts";
import { describeError, VmmError } from "../errors.ts";
import { spawnWorker } from "../runtime/entry.ts";
import { cpusOf, GuestFirst } from "../runtime/guest-first.ts";
import { deviceClock } from "./clock-origin.ts";
import { convertDevice, endOf, saveDevice } from "./device-fields.ts";
import type { DeviceExports } from "./device-module.ts";
import type { DeviceSet } from "./device-set.ts";
import type { DeviceInstance } from "./device-table.ts";
import { builtInModule, inspectModule, type ModuleCandidate, readModuleFile } from "./module-candidate.ts";
import { ModuleGate } from "./module-gate.ts";
import type { TrialAnswer, TrialOrder } from "./module-trial.ts";

/** An access takes microseconds. A thread that the host does not run for so long is waited for no longer. */
const QUIESCE_TIMEOUT_MS = 1000;
/** A trial takes 20 ms, most of it for starting the thread; on a busy machine longer. */
const TRIAL_TIMEOUT_MS = 5000;
/** In which the thread of the trial gives its memory back: other threads would wait for that with the gate closed. */
const TRIAL_END_MS = 30;
const SETTLE_RETRY_MS = 10;

/** Modules that are kept of a device: the built-in one, the one before, the one in use. */
const MODULES_KEPT = 3;

/** A module that models or has modelled a device. */
interface UsedModule extends Pick<ModuleCandidate, "description" | "fields"> {
  generation: number;
  /** Undefined for the built-in one. */
  bytes: Uint8Array<ArrayBuffer> | undefined;
  exports: DeviceExports;
  /** Its state page after `reset`, for fields that another module does not have. */
  powerOn: Uint8Array;
}

/** What `query-device-modules` tells of a device. */
export interface ModuleInfo {
  device: DeviceInstance;
  version: number;
  isBuiltIn: boolean;
  bytes: Uint8Array<ArrayBuffer>;
  /** Swaps that have been done, and those of them that were taken back because a thread could not use the module. */
  swapCount: number;
  takenBackCount: number;
}

interface DeviceHistory {
  /** Oldest first: the built-in one, then the last two that were swapped in. */
  used: UsedModule[];
  swapCount: number;
  takenBackCount: number;
}

export interface SwapperOptions {
  /** Hears of modules that had to be taken back. */
  report(message: string): void;
  /** The guest runs: timers are to be armed. */
  isRunning(): boolean;
  /** Linux thread ids of the guest's vCPUs: a trial is kept off their CPUs where there are others. */
  vcpuThreadIds(): number[];
  /** Throws what forbids that the form of a device's state changes now. */
  refuse(): void;
}

/** Swaps the modules of one VM's devices. Used by the main thread alone. */
export class ModuleSwapper {
  readonly devices: DeviceSet;
  readonly #memory: WebAssembly.Memory;
  readonly #options: SwapperOptions;
  readonly #histories = new Map<DeviceInstance, DeviceHistory>();
  #lastGeneration = 0;
  /** One swap after the other: settles when the last of them is over. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(memory: WebAssembly.Memory, devices: DeviceSet, options: SwapperOptions) {
    this.devices = devices;
    this.#memory = memory;
    this.#options = options;
    devices.settleModules = () => this.settle();
  }

  /** @throws VmmError "no-device" */
  find(name: string, instance: number): DeviceInstance {
    const found = this.devices.table.find((device) => device.module === name && device.instance === instance);
    if (found !== undefined) return found;
    const known = this.devices.table.map((device) => `${device.module} ${device.instance}`).join(", ");
    throw new VmmError("no-device", `This machine has no device ${name} ${instance}; it has ${known}`);
  }

  list(): ModuleInfo[] {
    return this.devices.table.map((device) => {
      const { swapCount, takenBackCount, used } = this.#histories.get(device) ?? emptyHistory();
      const bytes = used.at(-1)?.bytes;
      return {
        device,
        version: this.devices.modelOf(device).version,
        isBuiltIn: bytes === undefined,
        bytes: bytes ?? builtInModule(device.module).bytes,
        swapCount,
        takenBackCount,
      };
    });
  }

  /**
   * Has the module in `path` model the device from now on. Resolves with how long accesses to it had to wait, in ms.
   * @throws VmmError "module-refused", "device-busy", SysError when the file cannot be read, what `refuse` throws: the old
   * module goes on
   */
  swap(device: DeviceInstance, path: string): Promise<number> {
    const swapped = this.#turn.then(() => this.#swap(device, path));
    // Whoever comes next waits for the end, whatever that is; the caller gets the error.
    this.#turn = swapped.catch(() => {});
    return swapped;
  }

  async #swap(device: DeviceInstance, path: string): Promise<number> {
    this.#options.refuse();
    const { version, fields } = this.devices.modelOf(device);
    const candidate = inspectModule(readModuleFile(path), path, { name: device.module, version, fields });
    const tids = this.#options.vcpuThreadIds();
    const guestFirst = GuestFirst.begin(cpusOf(tids), tids);
    try {
      const history = this.#histories.get(device) ?? (await this.#beginHistory(device));
      const powerOn = await this.#try(device, candidate, history.used.at(-1)!, path);
      await new Promise((resolve) => setTimeout(resolve, TRIAL_END_MS));
      // The guest has gone on meanwhile, and so may have others.
      this.#options.refuse();
      const { bytes, description } = candidate;
      const exports = this.#instantiate(candidate, path);
      const generation = ++this.#lastGeneration;
      const next: UsedModule = { generation, bytes, description, fields: candidate.fields, exports, powerOn };
      const closedMs = this.#exchange(device, history.used.at(-1)!, next);
      history.used.push(next);
      if (history.used.length > MODULES_KEPT) history.used.splice(1, 1);
      history.swapCount++;
      return closedMs;
    } finally {
      guestFirst.end();
    }
  }

  /** Goes back from modules of which some thread could make no instance, which waits for that. Never throws. */
  settle(): void {
    for (const [device, history] of this.#histories) {
      const gate = new ModuleGate(this.#memory, device.state);
      while (history.used.length > 1 && gate.isRefused) {
        const title = `module of ${device.module} ${device.instance}`;
        try {
          this.#exchange(device, history.used.at(-1)!, history.used.at(-2)!);
        } catch (error) {
          this.#options.report(`A vCPU waits for the former ${title}: ${describeError(error)}`);
          setTimeout(() => this.settle(), SETTLE_RETRY_MS);
          return;
        }
        history.used.pop();
        history.takenBackCount++;
        this.#options.report(`A vCPU's thread could not use the new ${title}: the one before is in use again`);
      }
    }
  }

  async #beginHistory(device: DeviceInstance): Promise<DeviceHistory> {
    const candidate = builtInModule(device.module);
    const { description, fields } = candidate;
    const powerOn = await this.#try(device, candidate, candidate, `The built-in module of ${device.module}`);
    const exports = this.devices.exportsOf(device);
    const builtIn: UsedModule = { generation: 0, bytes: undefined, description, fields, exports, powerOn };
    const history = { ...emptyHistory(), used: [builtIn] };
    this.#histories.set(device, history);
    return history;
  }

  #instantiate({ module }: ModuleCandidate, title: string): DeviceExports {
    try {
      return this.devices.instantiate(module);
    } catch (error) {
      throw new VmmError("module-refused", `${title} cannot be instantiated`, { cause: error });
    }
  }

  /** Tries a module with the state that it would take over from `used`. Resolves with its state page after `reset`. */
  #try(
    device: DeviceInstance,
    { bytes, description }: ModuleCandidate,
    used: Pick<UsedModule, "description" | "fields">,
    title: string,
  ): Promise<Uint8Array> {
    const { result: page } = this.#whileClosed(device, () =>
      new Uint8Array(this.#memory.buffer, device.state, DEVICE_STRIDE_BYTES).slice(),
    );
    return runTrial(title, {
      bytes,
      page: onlyHostWords(page, description.host),
      ioSizeBytes: device.ioSizeBytes,
      fields: description.fields,
      saved: page.subarray(0, endOf(used.fields)),
      savedFields: used.description.fields,
      monotonicNs: deviceClock(this.#memory)(),
      realtimeNs: realtimeNs(),
    });
  }

  /** Returns for how long the gate was closed. @throws VmmError "device-busy": the old module goes on, nothing has changed */
  #exchange(device: DeviceInstance, from: UsedModule, to: UsedModule): number {
    const { version, fields } = to.description;
    const model = { generation: to.generation, version, fields, sizeBytes: endOf(to.fields) };
    const { closedMs } = this.#whileClosed(device, (gate) => {
      const saved = saveDevice(this.#memory, device.state, from.fields);
      const { fields, powerOn } = to;
      convertDevice(this.#memory, device.state, { fields, powerOn, saved, savedFields: from.fields });
      gate.publish(to.generation, to.bytes);
      this.devices.exchange(device, model, to.exports);
    });
    if (this.#options.isRunning()) this.devices.armTimers();
    return closedMs;
  }

  /** Nobody is in the device's module while `action` runs. @throws VmmError "device-busy" */
  #whileClosed<Result>(
    device: DeviceInstance,
    action: (gate: ModuleGate) => Result,
  ): { result: Result; closedMs: number } {
    const gate = new ModuleGate(this.#memory, device.state);
    let result: Result;
    const startMs = performance.now();
    gate.close();
    try {
      this.devices.freezePort(device);
      if (!gate.waitUntilEmpty(QUIESCE_TIMEOUT_MS)) {
        throw new VmmError(
          "device-busy",
          `A vCPU did not leave ${device.module} ${device.instance} within ${QUIESCE_TIMEOUT_MS} ms; nothing has changed, try again`,
        );
      }
      result = action(gate);
    } finally {
      this.devices.thawPort(device);
      gate.open();
    }
    return { result, closedMs: performance.now() - startMs };
  }
}

function emptyHistory(): DeviceHistory {
  return { used: [], swapCount: 0, takenBackCount: 0 };
}

/** A state page with what a module expects the host to have written: which ring it has, for one. */
function onlyHostWords(page: Uint8Array, host: string): Uint8Array {
  const words = new Uint8Array(page.length);
  for (const word of host.split(" ").filter((text) => text !== "")) {
    const offset = Number(word.split("@")[1]);
    words.set(page.subarray(offset, offset + 4), offset);
  }
  return words;
}

/** @throws VmmError "module-refused" */
async function runTrial(title: string, order: TrialOrder): Promise<Uint8Array> {
  const { promise, resolve } = Promise.withResolvers<TrialAnswer | "late">();
  let tid: number | undefined;
  const worker = spawnWorker("machine/module-trial.ts", (error) => {
    resolve({ kind: "failed", when: "when it is tried", message: describeError(error) });
  });
  worker.onmessage = ({ data }: MessageEvent) => {
    const answer = data as TrialAnswer;
    if (answer.kind === "begun") tid = answer.tid;
    else resolve(answer);
  };
  const timer = setTimeout(() => resolve("late"), TRIAL_TIMEOUT_MS);
  worker.postMessage(order);
  const answer = await promise;
  clearTimeout(timer);
  worker.terminate();
  if (answer === "late") {
    // Neither runtime can end a thread that is in a loop of a module: from now on it gets what nobody else wants.
    if (tid !== undefined) setSchedulingPolicy(SCHED_IDLE, tid);
    throw new VmmError(
      "module-refused",
      `${title} did not come to an end within ${TRIAL_TIMEOUT_MS / 1000} s of trial`,
    );
  }
  if (answer.kind !== "passed") {
    const { when, message } = answer as TrialAnswer & { kind: "failed" };
    throw new VmmError("module-refused", `${title} fails ${when}: ${message}`);
  }
  return answer.powerOn;
}
