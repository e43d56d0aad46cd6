// SPDX-License-Identifier: Apache-2.0
// Replaces the Wasm module of one device under the running guest: `device-module-swap`.
//
//   prepare    file read and checked, instance made; tried in a memory of its own, on power-on values and on the device's
//              present state
//   ── from here on accesses to this device wait at its gate (module-gate.ts), nothing else does ──
//   quiesce    the gate is closed; who is in the old module leaves it
//   carry      fields by name, as between versions of a saved state (device-fields.ts)
//   commit     the new module is published, the gate opened
//   ── each thread makes an instance of its own at its next access ──
//
// Everything that can fail comes before the state page is changed. The one thing that comes later, a thread that can
// make no instance, has the way back: the same steps with the module before. The trial is not within the closed gate,
// because it takes 0.03 to 0.6 ms of cold code; carrying takes 0.03 ms. A look at the state closes the gate for as long.
//
// What a device has besides its fields is not touched: the level of its interrupt line is one of them and stays as the
// line is; output is in a ring, which is the host's; deadlines are asked for again.
import { DEVICE_BASE, DEVICE_STRIDE_BYTES, WASM_PAGE_SIZE_BYTES } from "../../assembly/layout.ts";
import { realtimeNs } from "../../ffi/clock.ts";
import { describeError, VmmError } from "../errors.ts";
import { deviceClock } from "./clock-origin.ts";
import { type DeviceField, endOf, fieldSizeBytes, restoreDevice, saveDevice } from "./device-fields.ts";
import { type DeviceExports, type DeviceHost, instantiateModule } from "./device-module.ts";
import type { DeviceSet } from "./device-set.ts";
import type { DeviceInstance } from "./device-table.ts";
import { builtInModule, inspectModule, type ModuleCandidate, readModuleFile } from "./module-candidate.ts";
import { ModuleGate } from "./module-gate.ts";

/** An access takes microseconds. A thread that the host does not run for so long is waited for no longer. */
const QUIESCE_TIMEOUT_MS = 100;

/** Modules that are kept of a device: the built-in one, the one before, the one in use. */
const MODULES_KEPT = 3;

const SETTLE_RETRY_MS = 10;

const LOCK_OFFSET = DEVICE_STRIDE_BYTES - 4;

/** A module that models or has modelled a device. */
interface UsedModule extends Pick<ModuleCandidate, "description" | "fields"> {
  generation: number;
  /** Undefined for the built-in one. */
  bytes: Uint8Array<ArrayBuffer> | undefined;
  exports: DeviceExports;
  /** Its state page after `reset`, for fields that another module does not have. */
  powerOn: Uint8Array;
  /** Tries the module on a state page, in a memory of its own. */
  instanceOnTrial: DeviceExports;
}

export interface SwapResult {
  /** How long accesses to the device had to wait. */
  closedMs: number;
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

/** Swaps the modules of one VM's devices. Used by the main thread alone. */
export class ModuleSwapper {
  readonly devices: DeviceSet;
  readonly #memory: WebAssembly.Memory;
  readonly #report: (message: string) => void;
  readonly #isRunning: () => boolean;
  readonly #histories = new Map<DeviceInstance, DeviceHistory>();
  readonly #trial: TrialBench;
  #lastGeneration = 0;

  /** `report` hears of modules that had to be taken back, `isRunning` says whether timers are to be armed. */
  constructor(
    memory: WebAssembly.Memory,
    devices: DeviceSet,
    { report, isRunning }: { report: (message: string) => void; isRunning: () => boolean },
  ) {
    this.devices = devices;
    this.#memory = memory;
    this.#report = report;
    this.#isRunning = isRunning;
    this.#trial = new TrialBench(memory);
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
   * Has the module in `path` model the device from now on.
   * @throws VmmError "module-refused", "device-busy", SysError when the file cannot be read: the old module goes on
   */
  swap(device: DeviceInstance, path: string): SwapResult {
    this.settle();
    const { version, fields } = this.devices.modelOf(device);
    const candidate = inspectModule(readModuleFile(path), path, { name: device.module, version, fields });
    const history = this.#historyOf(device);
    const next = this.#prepare(device, candidate, path);
    const used = history.used.at(-1)!;
    this.#trial.run(next, device, this.#whileClosed(device, () => this.#save(device, used)).result, path);
    const closedMs = this.#exchange(device, used, next);
    history.used.push(next);
    if (history.used.length > MODULES_KEPT) history.used.splice(1, 1);
    history.swapCount++;
    return { closedMs };
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
          this.#report(`A vCPU waits for the former ${title}: ${describeError(error)}`);
          setTimeout(() => this.settle(), SETTLE_RETRY_MS);
          return;
        }
        history.used.pop();
        history.takenBackCount++;
        this.#report(`A vCPU's thread could not use the new ${title}: the one before is in use again`);
      }
    }
  }

  #historyOf(device: DeviceInstance): DeviceHistory {
    let history = this.#histories.get(device);
    if (history === undefined) {
      const { module, description, fields } = builtInModule(device.module);
      const { powerOn, instance } = this.#trial.powerOn(module, device, description.host, device.module);
      const exports = this.devices.exportsOf(device);
      const builtIn = {
        generation: 0,
        bytes: undefined,
        description,
        fields,
        exports,
        powerOn,
        instanceOnTrial: instance,
      };
      history = { ...emptyHistory(), used: [builtIn] };
      this.#histories.set(device, history);
    }
    return history;
  }

  #prepare(device: DeviceInstance, { bytes, module, description, fields }: ModuleCandidate, title: string): UsedModule {
    let exports: DeviceExports;
    try {
      exports = this.devices.instantiate(module);
    } catch (error) {
      throw new VmmError("module-refused", `${title} cannot be instantiated`, { cause: error });
    }
    const { powerOn, instance } = this.#trial.powerOn(module, device, description.host, title);
    const generation = ++this.#lastGeneration;
    return { generation, bytes, description, fields, exports, powerOn, instanceOnTrial: instance };
  }

  /** Returns for how long the gate was closed. @throws VmmError "device-busy": the old module goes on with its state as it is */
  #exchange(device: DeviceInstance, from: UsedModule, to: UsedModule): number {
    const { version, fields } = to.description;
    const model = { generation: to.generation, version, fields, sizeBytes: endOf(to.fields) };
    const { closedMs } = this.#whileClosed(device, (gate) => {
      carry(this.#memory, device.state, to, this.#save(device, from));
      gate.publish(to.generation, to.bytes);
      this.devices.exchange(device, model, to.exports);
    });
    if (this.#isRunning()) this.devices.armTimers();
    return closedMs;
  }

  #save(device: DeviceInstance, { fields }: UsedModule): SavedState {
    return { saved: saveDevice(this.#memory, device.state, fields), fields };
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

interface SavedState {
  saved: Uint8Array;
  fields: readonly DeviceField[];
}

/** Gives a state page the form of another module: fields by name, those that are new with their power-on values. */
function carry(
  memory: WebAssembly.Memory,
  state: number,
  to: Pick<UsedModule, "fields" | "powerOn">,
  { saved, fields }: SavedState,
): void {
  const page = new Uint8Array(memory.buffer, state, DEVICE_STRIDE_BYTES);
  for (const field of fields) page.fill(0, field.offset, field.offset + fieldSizeBytes(field));
  for (const field of to.fields) {
    page.set(to.powerOn.subarray(field.offset, field.offset + fieldSizeBytes(field)), field.offset);
  }
  restoreDevice(memory, state, to.fields, saved, fields);
}

/** Where a module does what it has to without anything coming of it: its memory is not the VM's, its line is nobody's. */
class TrialBench {
  readonly #vmMemory: WebAssembly.Memory;
  readonly #memory: WebAssembly.Memory;
  readonly #host: DeviceHost;

  constructor(vmMemory: WebAssembly.Memory) {
    this.#vmMemory = vmMemory;
    const pages = Math.ceil(TRIAL_MEMORY_SIZE_BYTES / WASM_PAGE_SIZE_BYTES);
    this.#memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.#host = {
      setIrq: () => {},
      signal: () => {},
      monotonicNs: deviceClock(vmMemory),
      realtimeNs,
      takeOutput: () => 0,
    };
  }

  /** @throws VmmError "module-refused" */
  powerOn(
    module: WebAssembly.Module,
    device: DeviceInstance,
    host: string,
    title: string,
  ): { instance: DeviceExports; powerOn: Uint8Array } {
    return this.#attempt(title, "at power-on", () => {
      const instance = instantiateModule(module, this.#memory, this.#host);
      const page = this.#page();
      page.fill(0);
      // Which ring it has, for one.
      for (const word of host.split(" ").filter((text) => text !== "")) {
        const offset = Number(word.split("@")[1]);
        page.set(new Uint8Array(this.#vmMemory.buffer, device.state + offset, 4), offset);
      }
      instance.reset(DEVICE_BASE);
      const powerOn = page.slice();
      this.#exercise(instance, device);
      return { instance, powerOn };
    });
  }

  /** Tries a module on the state that it is to take over. @throws VmmError "module-refused" */
  run(to: UsedModule, device: DeviceInstance, state: SavedState, title: string): void {
    this.#attempt(title, "on the state of the device", () => {
      this.#page().set(to.powerOn);
      carry(this.#memory, DEVICE_BASE, to, state);
      this.#exercise(to.instanceOnTrial, device);
    });
  }

  #page(): Uint8Array {
    return new Uint8Array(this.#memory.buffer, DEVICE_BASE, DEVICE_STRIDE_BYTES);
  }

  /** Reads all registers, and asks for the deadline. */
  #exercise(instance: DeviceExports, device: DeviceInstance): void {
    for (let offset = 0; offset < device.ioSizeBytes; offset++) {
      // The next call would wait for ever.
      this.#expectUnlocked();
      instance.read(DEVICE_BASE, offset, 1);
    }
    this.#expectUnlocked();
    instance.nextDeadlineNs?.(DEVICE_BASE);
    this.#expectUnlocked();
  }

  #expectUnlocked(): void {
    if (Atomics.load(new Int32Array(this.#memory.buffer, DEVICE_BASE + LOCK_OFFSET, 1), 0) === 0) return;
    throw new VmmError("module-refused", "It keeps the lock of its state page");
  }

  #attempt<Result>(title: string, when: string, action: () => Result): Result {
    try {
      return action();
    } catch (error) {
      throw new VmmError("module-refused", `${title} fails ${when}`, { cause: error });
    }
  }
}

/** Up to the end of the rings, which devices look into: the rest of a VM's memory no device knows. */
const TRIAL_MEMORY_SIZE_BYTES = 0x10_0000;
