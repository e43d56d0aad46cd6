// SPDX-License-Identifier: Apache-2.0
// A file that may become the module of a device: everything about it that can be wrong is found here, while the guest
// runs on the module that it has.
import { DEVICE_STRIDE_BYTES, MODULE_MAX_SIZE_BYTES } from "../../assembly/layout.ts";
import { type DeviceName, modules } from "../../build/devices.ts";
import { close, O_CLOEXEC, O_NONBLOCK, O_RDONLY, open, pread, status } from "../../ffi/fd.ts";
import { VmmError } from "../errors.ts";
import { type DeviceField, fieldSizeBytes, parseFields } from "./device-fields.ts";
import type { DeviceHost } from "./device-module.ts";
import { DESCRIPTION_SECTION, type ModuleDescription, parseDescription } from "./module-description.ts";
import { readWasm } from "./wasm-file.ts";

export interface ModuleCandidate {
  bytes: Uint8Array<ArrayBuffer>;
  module: WebAssembly.Module;
  description: ModuleDescription;
  fields: readonly DeviceField[];
}

/** What the module has to fit: the device's kind, and the state of the module in use. */
export interface Running {
  name: DeviceName;
  version: number;
  fields: string;
}

const HOST_SIGNATURES: Readonly<Record<keyof DeviceHost, string>> = {
  setIrq: "i32 i32 ->",
  signal: "i32 ->",
  monotonicNs: "-> i64",
  realtimeNs: "-> i64",
  takeOutput: "i32 -> i32",
};

/** Exports that a module may have even when the built-in one of its kind has not. */
const OPTIONAL_EXPORTS: Readonly<Record<string, string>> = { tick: "i32 ->", nextDeadlineNs: "i32 -> i64" };

/**
 * Fields that no version may lose: the level of the interrupt line, which stays as it is, and what the host reads by
 * itself.
 */
const LASTING_FIELDS = ["irq-level", "exit-code"];

/** The lock is the last word of a state page (assembly/lock.ts). */
const FIELDS_END = DEVICE_STRIDE_BYTES - 4;
const HOST_WORD_SIZE_BYTES = 4;

function refuse(message: string, cause?: unknown): VmmError {
  return new VmmError("module-refused", message, cause === undefined ? undefined : { cause });
}

/** @throws VmmError "module-refused", SysError */
export function readModuleFile(path: string): Uint8Array<ArrayBuffer> {
  // Without O_NONBLOCK a FIFO would keep the VMM waiting for somebody to write.
  const fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  try {
    const { kind, sizeBytes } = status(fd);
    if (kind !== "file") throw refuse(`${path} is no file but a ${kind}; give the path of a Wasm module`);
    if (sizeBytes > MODULE_MAX_SIZE_BYTES) {
      throw refuse(`${path} has ${sizeBytes} bytes; a device module has ${MODULE_MAX_SIZE_BYTES} at most`);
    }
    const bytes = new Uint8Array(sizeBytes);
    const count = sizeBytes === 0 ? 0 : pread(fd, bytes, 0);
    if (count !== sizeBytes) throw refuse(`${path} became shorter while it was read; write modules to another name`);
    return bytes;
  } finally {
    close(fd);
  }
}

/** `title` is what errors call the module: its path. @throws VmmError "module-refused" */
export function inspectModule(bytes: Uint8Array<ArrayBuffer>, title: string, running: Running): ModuleCandidate {
  const module = compile(bytes, title);
  const description = describe(module, title);
  if (description.name !== running.name) {
    throw refuse(`${title} is a module for ${description.name}, not for ${running.name}`);
  }
  checkInterface(bytes, module, title, running.name);
  const fields = checkState(description, title, running);
  return { bytes, module, description, fields };
}

/** The built-in module of a kind, as a candidate. */
export function builtInModule(name: DeviceName): ModuleCandidate {
  const bytes = Uint8Array.fromBase64(modules[name]);
  const module = new WebAssembly.Module(bytes);
  const description = describe(module, name);
  return { bytes, module, description, fields: parseFields(description.fields)! };
}

function compile(bytes: Uint8Array<ArrayBuffer>, title: string): WebAssembly.Module {
  try {
    return new WebAssembly.Module(bytes);
  } catch (error) {
    throw refuse(`${title} is no valid Wasm module`, error);
  }
}

function describe(module: WebAssembly.Module, title: string): ModuleDescription {
  const [section, ...more] = WebAssembly.Module.customSections(module, DESCRIPTION_SECTION);
  if (section === undefined || more.length > 0) {
    throw refuse(
      `${title} has ${more.length + (section === undefined ? 0 : 1)} custom sections ${DESCRIPTION_SECTION} instead of one; build it with tools/build.ts`,
    );
  }
  const description = parseDescription(new TextDecoder().decode(section));
  if (description === undefined) {
    throw refuse(`${title} has a custom section ${DESCRIPTION_SECTION} that is not understood`);
  }
  return description;
}

function checkInterface(bytes: Uint8Array, module: WebAssembly.Module, title: string, name: DeviceName): void {
  const file = readWasm(bytes);
  if (file.hasOwnMemory) throw refuse(`${title} has a memory of its own; devices import env.memory`);
  if (file.hasData) throw refuse(`${title} has static data; all devices share one memory and may not place data in it`);
  if (file.hasMutableGlobals) {
    throw refuse(
      `${title} has globals that can change; each thread has an instance of its own, state is in the state page`,
    );
  }
  for (const { module: from, name: what, kind } of WebAssembly.Module.imports(module)) {
    if (from === "env" && what === "memory" && kind === "memory") continue;
    const signature =
      from === "host" && Object.hasOwn(HOST_SIGNATURES, what) && HOST_SIGNATURES[what as keyof DeviceHost];
    if (!signature || kind !== "function") {
      throw refuse(`${title} imports ${kind} ${from}.${what}, which device modules are not given`);
    }
    const found = file.imports.get(`${from}.${what}`);
    if (found !== signature) throw refuse(`${title} imports ${from}.${what} as (${found}) instead of (${signature})`);
  }
  const required = readWasm(Uint8Array.fromBase64(modules[name])).exports;
  for (const [what, signature] of required) {
    const found = file.exports.get(what);
    if (found === undefined) throw refuse(`${title} does not export function ${what}, which a ${name} must have`);
    if (found !== signature) throw refuse(`${title} exports ${what} as (${found}) instead of (${signature})`);
  }
  for (const [what, signature] of Object.entries(OPTIONAL_EXPORTS)) {
    const found = file.exports.get(what);
    if (found !== undefined && found !== signature) {
      throw refuse(`${title} exports ${what} as (${found}) instead of (${signature})`);
    }
  }
}

function checkState({ version, fields, host }: ModuleDescription, title: string, running: Running): DeviceField[] {
  if (version < running.version) {
    throw refuse(
      `${title} has state version ${version}, which is older than version ${running.version} of the module in use`,
    );
  }
  const known = builtInDescription(running.name).host;
  if (host !== known) {
    throw refuse(`${title} expects the host's words as "${host}"; this Baton has them as "${known}"`);
  }
  const parsed = parseFields(fields);
  if (parsed === undefined) throw refuse(`${title} has a field list that is not understood: "${fields}"`);
  const hostWords = host.split(" ").filter((word) => word !== "");
  const taken = [
    ...parsed.map((field) => ({ name: field.name, start: field.offset, end: field.offset + fieldSizeBytes(field) })),
    ...hostWords.map((word) => {
      const [name = "", offset] = word.split("@");
      return { name, start: Number(offset), end: Number(offset) + HOST_WORD_SIZE_BYTES };
    }),
  ].sort((a, b) => a.start - b.start);
  for (const [index, { name, end }] of taken.entries()) {
    const next = taken[index + 1];
    if (next !== undefined && next.start < end) throw refuse(`${title}: ${name} and ${next.name} overlap`);
    if (end > FIELDS_END) throw refuse(`${title}: ${name} ends at byte ${end}; a state page has ${FIELDS_END}`);
  }
  if (new Set(parsed.map(({ name }) => name)).size < parsed.length) throw refuse(`${title} has two fields of one name`);
  for (const { name, type, count } of parseFields(running.fields)!) {
    if (!LASTING_FIELDS.includes(name)) continue;
    if (!parsed.some((field) => field.name === name && field.type === type && field.count === count)) {
      throw refuse(`${title} has no field ${name}:${type}, which every ${running.name} must keep`);
    }
  }
  return parsed;
}

function builtInDescription(name: DeviceName): ModuleDescription {
  return describe(new WebAssembly.Module(Uint8Array.fromBase64(modules[name])), name);
}
