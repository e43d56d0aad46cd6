// SPDX-License-Identifier: Apache-2.0
// Types of the commands about the monitor itself. Names and shapes: QEMU's qapi/control.json and qapi/introspect.json.
import { any, arrayOf, bool, enumOf, int, optional, type Static, str, struct, union } from "./types.ts";

/** `oob` is a capability QMP knows and this server does not offer. */
export const QmpCapability = enumOf("oob");

export const VersionInfo = struct({ qemu: struct({ major: int, minor: int, micro: int }), package: str });
export type VersionInfo = Static<typeof VersionInfo>;

export const CommandInfo = struct({ name: str });

const SchemaMember = struct({
  name: str,
  type: str,
  default: optional(any),
  features: optional(arrayOf(str)),
});

export const SchemaInfo = union(
  {
    name: str,
    "meta-type": enumOf("builtin", "enum", "array", "object", "alternate", "command", "event"),
    features: optional(arrayOf(str)),
  },
  "meta-type",
  {
    builtin: struct({ "json-type": enumOf("string", "number", "int", "boolean", "null", "object", "array", "value") }),
    enum: struct({
      members: arrayOf(struct({ name: str, features: optional(arrayOf(str)) })),
      values: arrayOf(str),
    }),
    array: struct({ "element-type": str }),
    object: struct({
      members: arrayOf(SchemaMember),
      tag: optional(str),
      variants: optional(arrayOf(struct({ case: str, type: str }))),
    }),
    alternate: struct({ members: arrayOf(struct({ type: str })) }),
    command: struct({ "arg-type": str, "ret-type": str, "allow-oob": optional(bool) }),
    event: struct({ "arg-type": str }),
  },
);
export type SchemaInfo = Static<typeof SchemaInfo>;
