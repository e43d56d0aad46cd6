// SPDX-License-Identifier: Apache-2.0
// The answer to query-qmp-schema, derived from the tables.
// https://www.qemu.org/docs/master/devel/qapi-code-gen.html#client-json-protocol-introspection
import type { SchemaInfo } from "./control.ts";
import { type BuiltinType, type CommandSpec, type EventSpec, empty, type ObjectType, type Type } from "./types.ts";

const JSON_TYPES = { str: "string", int: "int", number: "number", bool: "boolean", any: "value" } as const;

/**
 * Describes all commands and events, then every type they need. Types that are not built in are named by numbers, as
 * in QEMU: clients must follow references and not rely on names, which are no part of the interface.
 */
export function introspect(
  commands: Readonly<Record<string, CommandSpec>>,
  events: Readonly<Record<string, EventSpec>>,
): SchemaInfo[] {
  const names = new Map<Type, string>();
  const pending: Type[] = [];
  const seenNames = new Set<string>();

  const nameOf = (type: Type): string => {
    const known = names.get(type);
    if (known !== undefined) return known;
    const name =
      type.meta === "builtin" ? type.name : type.meta === "array" ? `[${nameOf(type.element)}]` : String(numbered++);
    names.set(type, name);
    if (!seenNames.has(name)) pending.push(type);
    seenNames.add(name);
    return name;
  };
  let numbered = 0;
  nameOf(empty);

  const result: SchemaInfo[] = [];
  for (const [name, spec] of Object.entries(commands)) {
    const argType = nameOf(spec.arguments ?? empty);
    result.push({ name, "meta-type": "command", "arg-type": argType, "ret-type": nameOf(spec.returns ?? empty) });
  }
  for (const [name, spec] of Object.entries(events)) {
    result.push({ name, "meta-type": "event", "arg-type": nameOf(spec.data ?? empty) });
  }
  // Describing a type may add to the list that is being walked.
  for (const type of pending) result.push(describeType(type, nameOf));
  return result;
}

function describeType(type: Type, nameOf: (type: Type) => string): SchemaInfo {
  const name = nameOf(type);
  switch (type.meta) {
    case "builtin":
      return { name, "meta-type": "builtin", "json-type": JSON_TYPES[(type as BuiltinType).name] };
    case "enum":
      return {
        name,
        "meta-type": "enum",
        members: type.values.map((value) => ({ name: value })),
        values: [...type.values],
      };
    case "array":
      return { name, "meta-type": "array", "element-type": nameOf(type.element) };
    case "object":
      return describeObject(name, type, nameOf);
  }
}

function describeObject(name: string, type: ObjectType, nameOf: (type: Type) => string): SchemaInfo {
  const members = Object.entries(type.members).map(([member, memberType]) =>
    memberType.meta === "optional"
      ? { name: member, default: null, type: nameOf(memberType.type) }
      : { name: member, type: nameOf(memberType) },
  );
  if (type.tag === undefined || type.variants === undefined) return { name, "meta-type": "object", members };
  const tagType = type.members[type.tag];
  const cases = tagType?.meta === "enum" ? tagType.values : [];
  const variants = cases.map((value) => ({ case: value, type: nameOf(type.variants?.[value] ?? empty) }));
  return { name, "meta-type": "object", members, tag: type.tag, variants };
}
