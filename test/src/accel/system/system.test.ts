// SPDX-License-Identifier: Apache-2.0
// What a guest may expect of its CPU as a system: the same cases on KVM and on the engine, and what the manuals say of each.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { pread } from "../../../../ffi/fd.ts";
import type { AcceleratorName } from "../../../../src/config/types.ts";
import { dword } from "../../../../src/payload/registers.ts";
import { temporaryDirectory } from "../../../ffi/support.ts";
import { GuestProcess, thisRuntime } from "../../../guest.ts";
import { assert, describe } from "../../../harness.ts";
import { kvmMissing } from "../../../kvm.ts";
import { addExceptions } from "./exceptions.ts";
import { addPaging } from "./paging.ts";
import { addProcessor } from "./processor.ts";
import { DONE_GPA, LOG_GPA, SystemProgram, VARIABLES } from "./program.ts";
import { addSeveral } from "./several.ts";

const test = describe("accel/system");

const RAM_END = DONE_GPA + 0x1000;

function start(accelerator: AcceleratorName, program: SystemProgram, cpuCount: number): GuestProcess {
  const kernel = join(temporaryDirectory(), "system.elf");
  writeFileSync(kernel, program.finish());
  const extra = [
    ...["-accel", accelerator, "-machine", "microvm,memory-backend=ram0", "-m", "32M", "-smp", String(cpuCount)],
    ...["-object", "memory-backend-memfd,id=ram0,size=32M,share=on", "-kernel", kernel, "-no-reboot"],
  ];
  return new GuestProcess({ bare: true, runtime: thisRuntime, extra });
}

/** The guest's RAM when its cases are over. */
async function run(accelerator: AcceleratorName, program: SystemProgram, cpuCount: number): Promise<Uint8Array> {
  await using guest = start(accelerator, program, cpuCount);
  const ram = new Uint8Array(RAM_END);
  const look = (): boolean => {
    const fd = guest.openRam();
    return fd !== undefined && pread(fd, ram.subarray(LOG_GPA), LOG_GPA) === RAM_END - LOG_GPA;
  };
  try {
    await guest.until("the cases to end", () => look() && ram[DONE_GPA] === 1);
  } catch (error) {
    look();
    const last = program
      .read(ram)
      .filter(({ found }) => found !== "")
      .at(-1);
    throw new Error(`The last case that left something: ${last?.title}: ${last?.found}\n${guest.error}`, {
      cause: error,
    });
  }
  return ram;
}

const SETS: Record<string, { add(program: SystemProgram): void; cpuCount: number }> = {
  paging: { add: addPaging, cpuCount: 1 },
  "exceptions and interrupts": { add: addExceptions, cpuCount: 1 },
  "segments, system calls, registers, modes, time": { add: addProcessor, cpuCount: 1 },
  "two vCPUs": { add: addSeveral, cpuCount: 2 },
};

for (const accelerator of ["kvm", "wasm"] as const) {
  const skip = accelerator === "kvm" ? kvmMissing() : undefined;
  for (const [name, { add, cpuCount }] of Object.entries(SETS)) {
    test.skipIf(skip, `${accelerator}: ${name}`, async () => {
      const program = new SystemProgram(accelerator === "kvm");
      add(program);
      const results = program.read(await run(accelerator, program, cpuCount));
      const wrong = results.filter(({ expected, found }) => expected === "" || expected !== found);
      const lines = wrong.map(({ title, expected, found }) => `${title}:\n  expected ${expected}\n  found    ${found}`);
      assert.is(wrong.length, 0, `\n${lines.join("\n")}`);
    });
  }
}

/** What ends a VM that may not reboot. */
for (const accelerator of ["kvm", "wasm"] as const) {
  const skip = accelerator === "kvm" ? kvmMissing() : undefined;
  test.skipIf(skip, `${accelerator}: a triple fault is a reset`, async () => {
    const program = new SystemProgram(accelerator === "kvm");
    program.add("a fault without an IDT", (asm) => {
      asm.mov(dword(VARIABLES), 0);
      asm.mov(dword(VARIABLES + 4), 0);
      asm.lidt(dword(VARIABLES));
      // UD2
      asm.db(0x0f, 0x0b);
      return [];
    });
    await using guest = start(accelerator, program, 1);
    const { exitCode } = await guest.ended;
    assert.is(exitCode, 0, guest.error);
  });
}

test.run();
