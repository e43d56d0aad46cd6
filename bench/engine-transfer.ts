// SPDX-License-Identifier: Apache-2.0
// The pause of cpr-transfer on the engine beside that on KVM.
import { compareAccelerators } from "./engine-pause/compare.ts";
import { TransferChain } from "./transfer/chain.ts";
import type { Subject } from "./types.ts";

export const subject: Subject = {
  description: "guest-observed pause of cpr-transfer with -accel wasm beside -accel kvm (needs /dev/kvm)",
  run: (options) =>
    compareAccelerators(
      "engine-transfer",
      async (command, ramSizeBytes) => {
        const chain = await TransferChain.start({ command, ramSizeBytes, cpuCount: 1 });
        return {
          update: () => chain.transfer(),
          faults: () => chain.faults(),
          [Symbol.asyncDispose]: () => chain[Symbol.asyncDispose](),
        };
      },
      options,
    ),
};
