// SPDX-License-Identifier: Apache-2.0
// State images that earlier versions of Baton wrote: today's reads them, and does for ever.
import { readFileSync } from "node:fs";
import { KVM_REGS_SIZE_BYTES } from "../../../ffi/kvm/abi.ts";
import { DeviceSet } from "../../../src/machine/device-set.ts";
import { deviceTable } from "../../../src/machine/device-table.ts";
import { createMemory } from "../../../src/memory/ram.ts";
import { type CarriedMachine, KNOWN_SECTIONS } from "../../../src/migration/carried.ts";
import { CODE_END_GPA, CODE_GPA } from "../../../src/payload/plan.ts";
import { StateReader } from "../../../src/state/reader.ts";
import { StateWriter } from "../../../src/state/writer.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("stored state images");

function fixture(name: string): StateReader {
  return new StateReader(readFileSync(new URL(`../../fixtures/${name}`, import.meta.url)), KNOWN_SECTIONS);
}

test("format 1, microvm: all sections are there", () => {
  const reader = fixture("state-v1-microvm.bin");
  assert.is(reader.producer, "baton 0.1.0");
  assert.equal(
    reader.sections().map(({ title, version }) => `${title} v${version}`),
    [
      ...["machine 0 v1", "vcpu 0 v1", "vcpu 1 v1", "irqchip 0 v1", "irqchip 1 v1", "irqchip 2 v1", "pit 0 v1"],
      ...["kvmclock 0 v1", "device/mc146818 0 v1", "device/acpi-pm 0 v1", "device/port92 0 v1", "device/i8042 0 v1"],
      ...["device/debug-exit 0 v1", "device/uart16550 0 v1"],
    ],
  );
});

test("format 1, microvm: machine and registers have their values", () => {
  const reader = fixture("state-v1-microvm.bin");
  const { spec, runState } = reader.section("machine").json() as CarriedMachine;
  assert.is(runState, "running");
  assert.is(spec.cpuCount, 2);
  assert.is(spec.memorySizeBytes, 32 << 20);
  for (const instance of [0, 1]) {
    const regs = reader.section("vcpu", instance).part("regs", KVM_REGS_SIZE_BYTES);
    // struct kvm_regs: sixteen general registers, then rip.
    const rip = Number(new DataView(regs.buffer, regs.byteOffset).getBigUint64(128, true));
    assert.ok(rip >= CODE_GPA && rip < CODE_END_GPA, `vCPU ${instance} is at 0x${rip.toString(16)}`);
  }
});

test("format 1, microvm: devices take the state over and give it back unchanged", () => {
  const reader = fixture("state-v1-microvm.bin");
  const { spec } = reader.section("machine").json() as CarriedMachine;
  const memory = createMemory(1 << 20);
  const devices = new DeviceSet(memory, deviceTable(spec), () => {});
  devices.restoreState(reader);
  const writer = new StateWriter();
  const bind = devices.planState(writer);
  writer.lay();
  bind()();
  const again = new StateReader(writer.seal(), KNOWN_SECTIONS);
  for (const section of reader.sections().filter(({ entry }) => entry.id.startsWith("device/"))) {
    const { id, instance, parts } = section.entry;
    for (const { name, type } of parts) {
      const now = again.section(id, instance);
      assert.is(now.entry.parts.find((part) => part.name === name)?.type, type, `fields of ${id}`);
      const saved = section.part(name);
      // Behind the output of a console there may be room for more of it.
      const usedBytes =
        name === "output" ? 4 + new DataView(saved.buffer, saved.byteOffset).getUint32(0, true) : undefined;
      assert.equal([...now.part(name)], [...saved.subarray(0, usedBytes)], `${name} of ${id} ${instance}`);
    }
  }
});

test.run();
