// SPDX-License-Identifier: Apache-2.0
// The character device that takes everything and says nothing.
import type { ChardevSpec } from "../../config/types.ts";
import type { HostChardev, HostChardevState } from "./base.ts";
import type { ChardevFrontend } from "./types.ts";

type NullSpec = Extract<ChardevSpec, { backend: "null" }>;

export class NullChardev implements HostChardev {
  readonly spec: NullSpec;
  readonly filename = "null";
  readonly connected = true;
  readonly queuedBytes = 0;
  #announced: boolean;

  constructor(spec: NullSpec, isRestored: boolean) {
    this.spec = spec;
    this.#announced = isRestored;
  }

  get id(): string {
    return this.spec.id;
  }

  attach(frontend: ChardevFrontend): void {
    if (this.#announced) return;
    this.#announced = true;
    frontend.opened?.();
  }

  save(): HostChardevState {
    return { spec: this.spec, fds: {}, queued: "", connected: true, filename: this.filename };
  }

  ready(): Promise<void> {
    return Promise.resolve();
  }

  write(): void {}
  acceptInput(): void {}
  freeze(): void {}
  thaw(): void {}
  release(): void {}
  close(): void {}
}
