// SPDX-License-Identifier: Apache-2.0
// QMP events: what the VM tells all its monitors unasked.
import type { EventData, EventName } from "./schema.ts";

/** Wall-clock time of an event. */
export interface QmpTimestamp {
  seconds: number;
  microseconds: number;
}

/** An event in the form in which it goes over the wire. */
export type QmpEvent<K extends EventName = EventName> = {
  [N in K]: EventData<N> extends undefined
    ? { timestamp: QmpTimestamp; event: N; data?: undefined }
    : { timestamp: QmpTimestamp; event: N; data: EventData<N> };
}[K];

export type QmpEventListener = (event: QmpEvent) => void;

type EmitArguments<K extends EventName> = EventData<K> extends undefined ? [] : [data: EventData<K>];

function toTimestamp(epochMs: number): QmpTimestamp {
  return { seconds: Math.floor(epochMs / 1000), microseconds: (epochMs % 1000) * 1000 };
}

/** The VM's one source of events. A listener that throws loses the event and disturbs nobody else. */
export class QmpEventSource {
  readonly #listeners = new Set<QmpEventListener>();

  /** Calls `listener` for each event from now on; returns what ends that. */
  subscribe(listener: QmpEventListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Tells all listeners, in the order in which they came, before it returns. */
  emit<K extends EventName>(name: K, ...[data]: EmitArguments<K>): void {
    // Not performance.now(): a VM lives long enough for the clock to be set under it.
    const timestamp = toTimestamp(Date.now());
    const event = (data === undefined ? { timestamp, event: name } : { timestamp, event: name, data }) as QmpEvent;
    for (const listener of [...this.#listeners]) {
      try {
        listener(event);
      } catch {
        // A monitor that cannot be told must not stop what is being told about.
      }
    }
  }
}
