// SPDX-License-Identifier: Apache-2.0
export async function demo(_args: string[]): Promise<number> {
  return 1;
}
