// SPDX-License-Identifier: Apache-2.0
// From what was said to what it means: a new VM's specification with every default filled in.
import { checkBoot, checkSpec } from "./check-spec.ts";
import { configOptions } from "./config-options.ts";
import { interpretOptions } from "./interpret.ts";
import type { RawOption } from "./options.ts";
import type { AcceleratorName, MachineSpec, MemoryBackendSpec, WantedSpec } from "./types.ts";
import { UsageError } from "./usage.ts";
import type { VmConfig } from "./vm-config.ts";

/** KVM where it is good for something, else the CPU engine: `src/accel/choose.ts`. */
const DEFAULT_ACCELERATORS: readonly AcceleratorName[] = ["kvm", "wasm"];
const DEFAULT_RAM_SIZE_BYTES = 128 * 1024 * 1024;

/**
 * The machine that `config` describes.
 *
 * @throws UsageError for a mistake in it, VmmError for what Baton cannot build.
 * @example
 * const spec = resolveConfig({ kernel: "vmlinux", m: 256, serial: "stdio" });
 */
export function resolveConfig(config: VmConfig): MachineSpec {
  return resolveOptions(configOptions(config));
}

/** The machine that the options of a command line describe; throws as `resolveConfig` does. */
export function resolveOptions(options: readonly RawOption[]): MachineSpec {
  return resolve(interpretOptions(options));
}

/** Fills in the defaults of a new VM and checks the whole; throws as `resolveConfig` does. */
export function resolve(wanted: WantedSpec): MachineSpec {
  const { noDefaults, ...said } = wanted;
  const spec: MachineSpec = {
    ...said,
    machine: { type: "microvm", auxRamShare: false, ...wanted.machine },
    accelerators: wanted.accelerators ?? [...DEFAULT_ACCELERATORS],
    memoryBackends: wanted.memoryBackends ?? [],
    memorySizeBytes: wanted.memorySizeBytes ?? DEFAULT_RAM_SIZE_BYTES,
    cpuCount: wanted.cpuCount ?? 1,
    cpu: wanted.cpu ?? { model: "host", features: {} },
    chardevs: wanted.chardevs ?? [],
    serials: trimSerials(wanted.serials ?? []),
    monitors: wanted.monitors ?? [],
    noReboot: wanted.noReboot ?? false,
    startPaused: wanted.startPaused ?? false,
    incoming: wanted.incoming ?? [],
  };
  addMemory(spec, wanted);
  if (wanted.serials === undefined && noDefaults !== true) addDefaultSerial(spec);
  checkSpec(spec);
  checkBoot(spec);
  return spec;
}

/** `-serial none` at the end of the list says nothing that its absence does not. */
function trimSerials(serials: readonly (string | null)[]): (string | null)[] {
  return serials.slice(0, serials.findLastIndex((serial) => serial !== null) + 1);
}

function addMemory(spec: MachineSpec, wanted: WantedSpec): void {
  const id = spec.machine.memoryBackend;
  if (id !== undefined) {
    const backend = spec.memoryBackends.find((candidate) => candidate.id === id);
    // As in QEMU, RAM is as large as its back end unless -m says otherwise, and then the check fails.
    if (backend !== undefined) spec.memorySizeBytes = wanted.memorySizeBytes ?? backend.sizeBytes;
    return;
  }
  const implicit = implicitBackend(spec);
  if (spec.memoryBackends.some((candidate) => candidate.id === implicit.id)) {
    throw new UsageError(
      `Object id '${implicit.id}' is reserved for the default RAM backend; choose another one, or make it the ` +
        `guest's RAM with -machine memory-backend=${implicit.id}`,
    );
  }
  spec.machine.memoryBackend = implicit.id;
  spec.memoryBackends = [...spec.memoryBackends, implicit];
}

/** RAM that no `-object` describes, with QEMU's names: private, or shared for aux-ram-share=on. */
function implicitBackend(spec: MachineSpec): MemoryBackendSpec {
  const id = spec.machine.type === "microvm" ? "microvm.ram" : "pc.ram";
  const sizeBytes = spec.memorySizeBytes;
  return spec.machine.auxRamShare
    ? { qomType: "memory-backend-memfd", id, sizeBytes, share: true, seal: true }
    : { qomType: "memory-backend-ram", id, sizeBytes, share: false };
}

/**
 * The serial port of a VM for which nobody asked for any: on stdio, like QEMU's -nographic, if no chardev has it. Else
 * with nothing plugged in, so that the guest finds the same hardware either way.
 */
function addDefaultSerial(spec: MachineSpec): void {
  const id = "serial0";
  if (spec.chardevs.some((chardev) => chardev.id === id)) {
    throw new UsageError(
      `Duplicate ID '${id}' for chardev: the default serial port has it; give -serial or -nodefaults`,
    );
  }
  const isStdioFree = !spec.chardevs.some(({ backend }) => backend === "stdio");
  spec.chardevs = [...spec.chardevs, isStdioFree ? { backend: "stdio", id, signal: true } : { backend: "null", id }];
  spec.serials = [id];
}
