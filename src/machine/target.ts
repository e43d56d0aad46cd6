// SPDX-License-Identifier: Apache-2.0
// The VM as the monitors see it.
import { VmmError } from "../errors.ts";
import type { Migration } from "../migration/migration.ts";
import type { QmpEventListener } from "../qmp/events.ts";
import type {
  AcceleratorInfo,
  ChardevInfo,
  CpuInfoFast,
  DeviceModuleInfo,
  DeviceModuleSwap,
  DeviceModuleSwapped,
  Memdev,
  MemoryInfo,
  RunState,
  SandboxInfo,
} from "../qmp/schema/machine.ts";
import type { QmpTarget } from "../qmp/target.ts";
import { sandboxInfo } from "../sandbox/state.ts";
import { VERSION } from "../version.ts";
import type { Connections } from "./connections.ts";
import type { FdTable } from "./fd-table.ts";
import type { ModuleSwapper } from "./module-swap.ts";
import type { Vm } from "./vm.ts";

/** How long a reply to `quit` may take to reach a client that does not read. */
const QUIT_DRAIN_MS = 500;

export class VmTarget implements QmpTarget {
  readonly version = VERSION;
  readonly migration: Migration;
  readonly #vm: Vm;
  readonly #connections: () => Connections;
  /** Made when it is first needed. */
  #swapper: ModuleSwapper | undefined;

  /** `connections` are made with this target, and so are there only after it. */
  constructor(vm: Vm, migration: Migration, connections: () => Connections) {
    this.#vm = vm;
    this.migration = migration;
    this.#connections = connections;
  }

  get name(): string | undefined {
    return this.#vm.spec.name;
  }

  get uuid(): string | undefined {
    return this.#vm.spec.uuid;
  }

  get fds(): FdTable {
    return this.#vm.fds;
  }

  status(): RunState {
    return this.#vm.state;
  }

  stop(): void {
    this.#vm.stop();
  }

  cont(): void {
    this.#vm.cont();
  }

  reset(): Promise<void> {
    return this.#vm.reset("host-qmp-system-reset", false);
  }

  powerdown(): void {
    this.#vm.powerdown();
  }

  wakeup(): Promise<void> {
    return this.#vm.wakeup();
  }

  quit(): void {
    this.#vm.refuseToLoseRam();
    this.#vm.quit("host-qmp-quit");
    // The reply is queued when this returns.
    setTimeout(() => void this.#finishQuit(), 0);
  }

  async #finishQuit(): Promise<void> {
    await this.#connections().drain(QUIT_DRAIN_MS);
    this.#vm.finishQuit();
  }

  cpus(): CpuInfoFast[] {
    const { cores, threads } = this.#vm.spec.cpuTopology ?? { cores: this.#vm.spec.cpuCount, threads: 1 };
    if (!this.#vm.isBuilt) return [];
    return this.#vm.accel.vcpuThreadIds().map((threadId, index) => ({
      "cpu-index": index,
      "qom-path": `/machine/unattached/device[${index}]`,
      "thread-id": threadId,
      props: {
        "socket-id": Math.floor(index / (cores * threads)),
        "core-id": Math.floor(index / threads) % cores,
        "thread-id": index % threads,
      },
      target: "x86_64",
    }));
  }

  chardevs(): ChardevInfo[] {
    return this.#connections()
      .info()
      .map(({ id, filename, isOpen }) => ({ label: id, filename, "frontend-open": isOpen }));
  }

  memdevs(): Memdev[] {
    return this.#vm.spec.memoryBackends.map(({ id, sizeBytes, share, prealloc }) => ({
      id,
      size: sizeBytes,
      merge: false,
      dump: false,
      prealloc: prealloc ?? false,
      share,
      reserve: true,
      "host-nodes": [],
      policy: "default",
    }));
  }

  memory(): MemoryInfo {
    return { "base-memory": this.#vm.spec.memorySizeBytes, "plugged-memory": 0 };
  }

  accelerators(): AcceleratorInfo {
    const enabled = this.#vm.isBuilt ? this.#vm.accel.name : this.#vm.spec.accelerators[0]!;
    return { enabled, present: ["kvm", "wasm"] };
  }

  sandbox(): Promise<SandboxInfo> {
    return sandboxInfo();
  }

  async deviceModules(): Promise<DeviceModuleInfo[]> {
    const { createHash } = await import("node:crypto");
    const swapper = await this.#getSwapper();
    return swapper.list().map(({ device, version, bytes, isBuiltIn, swapCount, takenBackCount }) => ({
      device: device.module,
      instance: device.instance,
      version,
      sha256: createHash("sha256").update(bytes).digest("hex"),
      "built-in": isBuiltIn,
      swaps: swapCount,
      "taken-back": takenBackCount,
    }));
  }

  async swapDeviceModule({ device, instance = 0, filename }: DeviceModuleSwap): Promise<DeviceModuleSwapped> {
    const swapper = await this.#getSwapper();
    const closedMs = await swapper.swap(swapper.find(device, instance), filename);
    return { "closed-us": Math.round(closedMs * 1000) };
  }

  async #getSwapper(): Promise<ModuleSwapper> {
    const { ModuleSwapper } = await import("./module-swap.ts");
    const vm = this.#vm;
    if (vm.state === "inmigrate") throw new VmmError("inmigrate", "Guest is waiting for an incoming migration");
    // A VM that waited for a guest in vain has other devices when the next one has come.
    if (this.#swapper?.devices !== vm.devices) {
      this.#swapper = new ModuleSwapper(vm.memory, vm.devices, {
        report: (message) => process.stderr.write(`baton: ${message}\n`),
        isRunning: () => vm.isRunning,
        vcpuThreadIds: () => vm.accel.vcpuThreadIds(),
        // An image that is being written has the form of the state that there was.
        refuse: () => this.migration.refuseBusy(),
      });
    }
    return this.#swapper;
  }

  subscribe(listener: QmpEventListener): () => void {
    return this.#vm.events.subscribe(listener);
  }
}
