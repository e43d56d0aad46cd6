// SPDX-License-Identifier: Apache-2.0
// Sizes as QEMU's monitor prints them.

/** Three significant digits with a binary unit: `1.5 GiB`. */
export function formatSize(sizeBytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = sizeBytes;
  let unit = 0;
  for (; size >= 1000 && unit < units.length - 1; unit++) size /= 1024;
  return `${Number(size.toPrecision(3))} ${units[unit]}`;
}
