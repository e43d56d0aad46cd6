// SPDX-License-Identifier: Apache-2.0
// The vocabulary of the schema: QAPI's meta-types as values, from which TypeScript types are derived.
// https://www.qemu.org/docs/master/devel/qapi-code-gen.html

/** Carries the TypeScript type that a schema type stands for; there is nothing of it at run time. */
interface Typed<T> {
  readonly static?: T;
}

export interface BuiltinType<T = unknown> extends Typed<T> {
  readonly meta: "builtin";
  readonly name: "str" | "int" | "number" | "bool" | "any";
  /** Integers only: introspection shows all of them as `int`. */
  readonly unsigned?: boolean;
}

export interface EnumType<T extends string = string> extends Typed<T> {
  readonly meta: "enum";
  readonly values: readonly T[];
}

export interface ArrayType<T = unknown> extends Typed<T> {
  readonly meta: "array";
  readonly element: Type;
}

/** A struct, or with `tag` and `variants` a flat union. */
export interface ObjectType<T = unknown> extends Typed<T> {
  readonly meta: "object";
  readonly members: Members;
  readonly tag?: string;
  readonly variants?: Readonly<Record<string, ObjectType>>;
}

export type Type<T = unknown> = BuiltinType<T> | EnumType<T & string> | ArrayType<T> | ObjectType<T>;

export interface Optional<T extends Type = Type> {
  readonly meta: "optional";
  readonly type: T;
}

export type Members = Readonly<Record<string, Type | Optional>>;

/** The TypeScript type of a schema type. */
export type Static<T> = T extends Typed<infer U> ? U : never;

type RequiredKeys<M> = { [K in keyof M]: M[K] extends Optional ? never : K }[keyof M];
type OptionalKeys<M> = { [K in keyof M]: M[K] extends Optional ? K : never }[keyof M];

type Flatten<T> = { [K in keyof T]: T[K] };

type MembersStatic<M> = Flatten<
  { [K in RequiredKeys<M>]: Static<M[K]> } & {
    [K in OptionalKeys<M>]?: M[K] extends Optional<infer T> ? Static<T> : never;
  }
>;

type UnionStatic<M, Tag extends string, V> = {
  [K in keyof V]: Static<V[K]> extends infer Variant
    ? Variant extends unknown
      ? Flatten<Omit<MembersStatic<M>, Tag> & { [T in Tag]: K } & Variant>
      : never
    : never;
}[keyof V];

export const str: BuiltinType<string> = { meta: "builtin", name: "str" };
export const int: BuiltinType<number> = { meta: "builtin", name: "int" };
/** `uint64` and `size` of QAPI. Values above 2^53 arrive as `bigint`, which no member of Baton's needs. */
export const uint: BuiltinType<number> = { meta: "builtin", name: "int", unsigned: true };
export const num: BuiltinType<number> = { meta: "builtin", name: "number" };
export const bool: BuiltinType<boolean> = { meta: "builtin", name: "bool" };
export const any: BuiltinType<unknown> = { meta: "builtin", name: "any" };

export function enumOf<const T extends string>(...values: T[]): EnumType<T> {
  return { meta: "enum", values };
}

export function arrayOf<T extends Type>(element: T): ArrayType<Static<T>[]> {
  return { meta: "array", element };
}

export function struct<const M extends Members>(members: M): ObjectType<MembersStatic<M>> {
  return { meta: "object", members };
}

/** A flat union: the value of member `tag` of `members` chooses whose members come in addition. */
export function union<
  const M extends Members,
  const Tag extends string & keyof M,
  const V extends Readonly<Record<string, ObjectType>>,
>(members: M, tag: Tag, variants: V): ObjectType<UnionStatic<M, Tag, V>> {
  return { meta: "object", members, tag, variants };
}

export function optional<T extends Type>(type: T): Optional<T> {
  return { meta: "optional", type };
}

/** A command of the table: `arguments` absent means none, `returns` absent means `{}`. */
export interface CommandSpec<A = unknown, R = unknown> {
  readonly arguments?: ObjectType<A>;
  readonly returns?: Type<R>;
  /** May be called before `qmp_capabilities`, and only this one may. */
  readonly negotiation?: boolean;
}

export interface EventSpec<D = unknown> {
  readonly data?: ObjectType<D>;
}

/** The type of members that are not there: no keys at all. */
export type Empty = Record<never, never>;

export const empty: ObjectType<Empty> = { meta: "object", members: {} };
