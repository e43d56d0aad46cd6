// SPDX-License-Identifier: Apache-2.0
// A VM that is nothing but its status: what the monitor tests talk to.

import type { MigrationAddress } from "../../../src/config/types.ts";
import { FdTable } from "../../../src/machine/fd-table.ts";
import { defaultCapabilities, defaultParameters } from "../../../src/migration/parameters.ts";
import { QmpError } from "../../../src/qmp/errors.ts";
import { QmpEventSource } from "../../../src/qmp/events.ts";
import type { MigrationChannels } from "../../../src/qmp/migration-address.ts";
import type { AcceleratorInfo, DeviceModuleSwap, RunState } from "../../../src/qmp/schema/machine.ts";
import type {
  MigrationCapability,
  MigrationInfo,
  MigrationParameters,
  MigrationStatus,
} from "../../../src/qmp/schema/migration.ts";
import { QmpSession, type QmpSessionOptions } from "../../../src/qmp/session.ts";
import type { MigrationTarget, QmpTarget } from "../../../src/qmp/target.ts";

export class FakeTarget implements QmpTarget {
  readonly version = "0.1.0";
  name: string | undefined = "vm1";
  uuid: string | undefined = undefined;
  state: RunState = "running";
  readonly events = new QmpEventSource();
  readonly calls: string[] = [];
  readonly fds = new FdTable();
  /** What the next `stop` waits for. */
  stopGate: Promise<void> | undefined;

  status(): RunState {
    return this.state;
  }

  async stop(): Promise<void> {
    this.calls.push("stop");
    await this.stopGate;
    if (this.state === "running") this.events.emit("STOP");
    this.state = "paused";
  }

  cont(): void {
    this.calls.push("cont");
    if (this.state !== "running") this.events.emit("RESUME");
    this.state = "running";
  }

  reset(): void {
    this.events.emit("RESET", { guest: false, reason: "host-qmp-system-reset" });
  }

  powerdown(): void {
    this.events.emit("POWERDOWN");
  }

  wakeup(): void {
    this.state = "running";
    this.events.emit("WAKEUP");
  }

  quit(): void {
    this.calls.push("quit");
    this.events.emit("SHUTDOWN", { guest: false, reason: "host-qmp-quit" });
  }

  cpus() {
    return [0, 1].map((index) => ({
      "cpu-index": index,
      "qom-path": `/machine/cpu[${index}]`,
      "thread-id": 100 + index,
      target: "x86_64" as const,
    }));
  }

  chardevs() {
    return [{ label: "serial0", filename: "unix:/tmp/a.sock,server=on", "frontend-open": true }];
  }

  memdevs() {
    return [
      {
        id: "ram0",
        size: 2 ** 26,
        merge: false,
        dump: true,
        prealloc: false,
        share: true,
        "host-nodes": [],
        policy: "default" as const,
      },
    ];
  }

  memory() {
    return { "base-memory": 2 ** 26 };
  }

  sandbox() {
    return { enabled: false, seccomp: "none" as const, "no-new-privs": false };
  }

  accelerators(): AcceleratorInfo {
    return { enabled: "kvm", present: ["kvm", "wasm"] };
  }

  deviceModules() {
    const sha256 = "0".repeat(64);
    return [
      { device: "uart16550", instance: 0, version: 1, sha256, "built-in": true, swaps: 0, "taken-back": 0 },
      { device: "mc146818", instance: 0, version: 2, sha256, "built-in": false, swaps: 3, "taken-back": 1 },
    ];
  }

  swapDeviceModule({ device, instance = 0, filename }: DeviceModuleSwap) {
    if (device !== "uart16550") throw new QmpError(`This machine has no device ${device} ${instance}`);
    this.calls.push(`swap ${device} ${instance} ${filename}`);
    return { "closed-us": 120 };
  }

  subscribe(listener: Parameters<QmpEventSource["subscribe"]>[0]): () => void {
    return this.events.subscribe(listener);
  }

  readonly migration = new FakeMigration(this);
}

export class FakeMigration implements MigrationTarget {
  readonly #vm: FakeTarget;
  current = defaultParameters();
  readonly #capabilities = defaultCapabilities();
  info: MigrationInfo = {};
  blocker: string | undefined;
  started: (MigrationChannels | undefined)[] = [];
  received: { main: MigrationAddress; exitOnError: boolean }[] = [];

  constructor(vm: FakeTarget) {
    this.#vm = vm;
  }

  parameters() {
    return this.current;
  }

  setParameters(changes: Partial<MigrationParameters>): void {
    this.current = { ...this.current, ...changes };
  }

  capabilities() {
    return { ...this.#capabilities };
  }

  setCapabilities(changes: Partial<Record<MigrationCapability, boolean>>): void {
    Object.assign(this.#capabilities, changes);
  }

  migrate(channels: MigrationChannels | undefined): void {
    if (this.blocker !== undefined) throw new QmpError(this.blocker);
    this.started.push(channels);
    this.enter("setup");
  }

  enter(status: MigrationStatus): void {
    this.info = { ...this.info, status };
    this.#vm.events.emit("MIGRATION", { status });
  }

  incoming(main: MigrationAddress, { exitOnError }: { exitOnError: boolean }): void {
    if (this.#vm.state !== "inmigrate") throw new QmpError("'-incoming' was not specified on the command line");
    this.received.push({ main, exitOnError });
  }

  dryRun(): void {
    this.#vm.calls.push("dryRun");
  }

  cancel(): void {
    this.#vm.calls.push("cancel");
  }

  startPostcopy(): void {
    this.#vm.calls.push("startPostcopy");
  }

  query() {
    return this.info;
  }

  blockers() {
    return [
      { mode: "normal" as const, reason: "No", code: "no-such-thing", device: "disk0", fix: "Take the device out" },
    ];
  }
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Latin-1 text as bytes, so that `\xff` is one byte. */
export function bytesOf(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

export function utf8(text: string): Uint8Array {
  return encoder.encode(text);
}

/** A session with a client that keeps everything it is sent. */
export class TestClient {
  readonly session: QmpSession;
  output = "";
  acceptedInput = 0;
  backlog = 0;
  /** How often the session wanted to hang up. */
  drops = 0;

  constructor(target: QmpTarget, options: QmpSessionOptions = {}) {
    const port = {
      send: (bytes: Uint8Array) => {
        this.output += decoder.decode(bytes);
      },
      backlogBytes: () => this.backlog,
      acceptInput: () => {
        this.acceptedInput++;
      },
      drop: () => {
        this.drops++;
      },
    };
    this.session = new QmpSession(target, port, options);
  }

  /** A client that has negotiated and forgotten about it. */
  static async negotiated(target: QmpTarget): Promise<TestClient> {
    const client = new TestClient(target);
    await client.send('{"execute":"qmp_capabilities"}');
    client.output = "";
    return client;
  }

  /** Sends text and returns all that has come since the last time, once nothing is being executed. */
  async send(text: string): Promise<string> {
    this.session.receive(utf8(text));
    return await this.take();
  }

  async take(): Promise<string> {
    await this.session.idle();
    const output = this.output;
    this.output = "";
    return output;
  }

  /** Executes and returns the reply without its line end nor events; the request is an object, or JSON text. */
  async execute(request: object | string): Promise<string> {
    const text = typeof request === "string" ? request : JSON.stringify(request);
    return (await this.send(`${text}\n`)).trimEnd().split("\r\n").at(-1)!;
  }

  /** The `desc` of the error that a command ends in; fails the test's comparison if there was none. */
  async errorOf(command: string, args?: object): Promise<string> {
    const reply = JSON.parse(await this.execute({ execute: command, arguments: args })) as {
      error?: { desc: string };
    };
    return reply.error?.desc ?? "no error";
  }

  async returnOf(command: string, args?: object): Promise<unknown> {
    const reply = JSON.parse(await this.execute({ execute: command, arguments: args })) as { return?: unknown };
    return reply.return;
  }
}

/** Timestamps are the one thing in the output that no test can know. */
export function withoutTime(output: string): string {
  return output.replaceAll(/"timestamp": \{"seconds": \d+, "microseconds": \d+\}/g, '"timestamp": T');
}
