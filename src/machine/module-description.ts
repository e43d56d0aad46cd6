// SPDX-License-Identifier: Apache-2.0
// What a device module says of itself, in the custom section `baton.device` of its file: JSON.
//
//   {"name":"port92","version":1,"fields":"control:u8@0","host":""}
//
// `fields` is the state that it saves (device-fields.ts), `host` the words of the state page that the host writes or
// reads by itself, each with its offset.
import { deviceFields, formatFields } from "./device-fields.ts";

export const DESCRIPTION_SECTION = "baton.device";

export interface ModuleDescription {
  /** `uart16550` */
  name: string;
  /** Version of its state. */
  version: number;
  fields: string;
  /** `ring-index@32 frozen@36 dropped-bytes@40` */
  host: string;
}

const HOST_CONSTANT = /^HOST_([A-Z0-9_]+)$/;

/** The description of a module, by the constants of its layout.ts. */
export function describeLayout(name: string, layout: Readonly<Record<string, number>>): ModuleDescription {
  const host = Object.entries(layout).flatMap(([constant, offset]) => {
    const match = HOST_CONSTANT.exec(constant);
    return match === null ? [] : [{ name: match[1]!.toLowerCase().replaceAll("_", "-"), offset }];
  });
  return {
    name,
    version: layout.STATE_VERSION!,
    fields: formatFields(deviceFields(layout)),
    host: host
      .sort((a, b) => a.offset - b.offset)
      .map((word) => `${word.name}@${word.offset}`)
      .join(" "),
  };
}

/** Undefined when it is not a description. */
export function parseDescription(json: string): ModuleDescription | undefined {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { name, version, fields, host } = value as Record<string, unknown>;
  if (typeof name !== "string" || typeof fields !== "string" || typeof host !== "string") return undefined;
  if (typeof version !== "number" || !Number.isInteger(version) || version < 1 || version > 0xffff_ffff)
    return undefined;
  return { name, version, fields, host };
}
