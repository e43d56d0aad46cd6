// SPDX-License-Identifier: Apache-2.0
// Worker of one stream of guest RAM: it gets one message, and from then on heeds only the shared buffer.
import { FileStream } from "./file-stream.ts";
import type { PageSource } from "./page-copier.ts";
import { PageFetcher } from "./page-fetcher.ts";
import { PageServer } from "./page-server.ts";
import { RamShared } from "./shared.ts";
import { StreamReceiver } from "./stream-receiver.ts";
import { StreamSender } from "./stream-sender.ts";
import type { RamPlace } from "./walk.ts";

export interface RamWorkerStart extends RamPlace {
  shared: SharedArrayBuffer;
  fd: number;
  stream: number;
  streamCount: number;
  work:
    | { kind: "send"; zstdLevel: number; isByReference: boolean }
    | { kind: "receive"; written: number; source: PageSource | undefined }
    | { kind: "write" | "read"; fileOffset: number; checks: SharedArrayBuffer }
    | { kind: "serve-pages"; urgentFd: number }
    | { kind: "fetch-pages"; urgentFd: number; faultFd: number };
}

/** What one order has the stream do. */
function jobOf(start: RamWorkerStart, shared: RamShared): () => void {
  const options = { ...start, ...start.work, shared };
  switch (options.kind) {
    case "send": {
      const sender = new StreamSender(options);
      return () => sender.sendRound();
    }
    case "receive": {
      const receiver = new StreamReceiver(options);
      return () => receiver.receiveRound();
    }
    case "serve-pages": {
      const server = new PageServer(options);
      return () => server.serve();
    }
    case "fetch-pages": {
      const fetcher = new PageFetcher(options);
      return () => fetcher.fetch();
    }
    case "write":
    case "read": {
      const file = new FileStream(options);
      return options.kind === "write" ? () => file.write() : () => file.read();
    }
  }
}

function serve(start: RamWorkerStart): void {
  const shared = new RamShared(start.shared);
  let job: (() => void) | undefined;
  // A guest in post-copy waits for the first job: nothing is made anew then.
  if (start.work.kind === "serve-pages" || start.work.kind === "fetch-pages") job = jobOf(start, shared);
  let order = shared.waitForOrder(0);
  while (order !== undefined) {
    try {
      job ??= jobOf(start, shared);
      job();
    } catch (error) {
      shared.reportError(start.stream, error);
    }
    shared.reportDone();
    order = shared.waitForOrder(order);
  }
}

const scope = globalThis as unknown as { onmessage: (event: { data: RamWorkerStart }) => void; close(): void };
scope.onmessage = ({ data }) => {
  serve(data);
  scope.close();
};
