// SPDX-License-Identifier: Apache-2.0
// The engine's TSC and kvmclock.
import { IRQCHIP_TSC_KHZ_U32 } from "../../../../assembly/irqchip/layout.ts";
import { IRQCHIP_BASE } from "../../../../assembly/layout.ts";
import { engineTsc, Kvmclock, tscReader } from "../../../../src/accel/wasm/clock.ts";
import { assert, describe } from "../../../harness.ts";

const test = describe("accel/wasm/clock");
const PLACE = 0x100;

for (const khz of [1, 999_999, 1_000_000, 2_999_999, 6_000_000]) {
  test(`the TSC is the same, whether it is stored or returned (${khz} kHz)`, () => {
    const memory = new WebAssembly.Memory({ initial: 2, maximum: 2, shared: true });
    const view = new DataView(memory.buffer);
    view.setUint32(IRQCHIP_BASE + IRQCHIP_TSC_KHZ_U32, khz, true);
    const returned = engineTsc(memory);
    const store = tscReader(memory);
    for (let round = 0; round < 1000; round++) {
      const before = returned();
      store(PLACE);
      const stored = view.getBigUint64(PLACE, true);
      assert.ok(before <= stored && stored <= returned(), `${before}, ${stored}`);
    }
  });
}

for (const khz of [999_999, 1_000_000, 2_999_999]) {
  test(`kvmclock goes by the TSC that it is asked for (${khz} kHz)`, () => {
    const memory = new WebAssembly.Memory({ initial: 2, maximum: 2, shared: true });
    new DataView(memory.buffer).setUint32(IRQCHIP_BASE + IRQCHIP_TSC_KHZ_U32, khz, true);
    const [tsc, clock] = [engineTsc(memory), new Kvmclock(memory)];
    clock.set(5_000_000_000n);
    const before = clock.nowNs();
    const at = tsc();
    const after = clock.nowNs();
    // A tick may be longer than a nanosecond.
    assert.ok(before <= clock.atTsc(at) + 2n && clock.atTsc(at) <= after, `${before}, ${clock.atTsc(at)}, ${after}`);
    const ms = clock.atTsc(at + BigInt(khz)) - clock.atTsc(at);
    assert.ok(ms >= 999_999n && ms <= 1_000_001n, `${ms}`);
  });
}

test.run();
