// SPDX-License-Identifier: Apache-2.0
// XXH3-64 of one page: the published algorithm with the default secret and seed 0, cut down to inputs of 4096 bytes.
//
// https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, "XXH3 algorithm description", large inputs: eight 64-bit
// accumulators (here four v128) take in 64-byte stripes, each mixed with a window of the secret that moves on by 8 bytes
// for each stripe. After a block of 16 stripes the accumulators are scrambled. A page is three whole blocks, 15 stripes
// and a last stripe with a window of its own. The result equals XXH3_64bits() bit by bit, so other tools can check it.
//
// The secret is immediates in the code: a module may have no static data.

const PAGE_SIZE_BYTES = 4096;
const BLOCK_SIZE_BYTES = 1024;

const PRIME32_1: u64 = 0x9e3779b1;
const PRIME32_2: u64 = 0x85ebca77;
const PRIME32_3: u64 = 0xc2b2ae3d;
const PRIME64_1: u64 = 0x9e3779b185ebca87;
const PRIME64_2: u64 = 0xc2b2ae3d27d4eb4f;
const PRIME64_3: u64 = 0x165667b19e3779f9;
const PRIME64_4: u64 = 0x85ebca77c2b2ae63;
const PRIME64_5: u64 = 0x27d4eb2f165667c5;
const PRIME_MX1: u64 = 0x165667919e3779f9;

// SECRET_<n>: 8 bytes of the default secret at byte n, little endian. Windows of the stripes, then of the last stripe
// (192 - 64 - 7 = 121), then of the final merge (11).
const SECRET_0: i64 = 0xbe4ba423396cfeb8;
const SECRET_8: i64 = 0x1cad21f72c81017c;
const SECRET_16: i64 = 0xdb979083e96dd4de;
const SECRET_24: i64 = 0x1f67b3b7a4a44072;
const SECRET_32: i64 = 0x78e5c0cc4ee679cb;
const SECRET_40: i64 = 0x2172ffcc7dd05a82;
const SECRET_48: i64 = 0x8e2443f7744608b8;
const SECRET_56: i64 = 0x4c263a81e69035e0;
const SECRET_64: i64 = 0xcb00c391bb52283c;
const SECRET_72: i64 = 0xa32e531b8b65d088;
const SECRET_80: i64 = 0x4ef90da297486471;
const SECRET_88: i64 = 0xd8acdea946ef1938;
const SECRET_96: i64 = 0x3f349ce33f76faa8;
const SECRET_104: i64 = 0x1d4f0bc7c7bbdcf9;
const SECRET_112: i64 = 0x3159b4cd4be0518a;
const SECRET_120: i64 = 0x647378d9c97e9fc8;
const SECRET_128: i64 = 0xc3ebd33483acc5ea;
const SECRET_136: i64 = 0xeb6313faffa081c5;
const SECRET_144: i64 = 0x49daf0b751dd0d17;
const SECRET_152: i64 = 0x9e68d429265516d3;
const SECRET_160: i64 = 0xfca1477d58be162b;
const SECRET_168: i64 = 0xce31d07ad1b8f88f;
const SECRET_176: i64 = 0x280416958f3acb45;
const SECRET_184: i64 = 0x7e404bbbcafbd7af;
const SECRET_121: i64 = 0xea647378d9c97e9f;
const SECRET_129: i64 = 0xc5c3ebd33483acc5;
const SECRET_137: i64 = 0x17eb6313faffa081;
const SECRET_145: i64 = 0xd349daf0b751dd0d;
const SECRET_153: i64 = 0x2b9e68d429265516;
const SECRET_161: i64 = 0x8ffca1477d58be16;
const SECRET_169: i64 = 0x45ce31d07ad1b8f8;
const SECRET_177: i64 = 0xaf280416958f3acb;
const SECRET_11: i64 = 0x6dd4de1cad21f72c;
const SECRET_19: i64 = 0xa44072db979083e9;
const SECRET_27: i64 = 0xe679cb1f67b3b7a4;
const SECRET_35: i64 = 0xd05a8278e5c0cc4e;
const SECRET_43: i64 = 0x4608b82172ffcc7d;
const SECRET_51: i64 = 0x9035e08e2443f774;
const SECRET_59: i64 = 0x52283c4c263a81e6;
const SECRET_67: i64 = 0x65d088cb00c391bb;

/** One lane pair of one stripe: acc[i ^ 1] += data[i]; acc[i] += low32(data[i] ^ key[i]) * high32(data[i] ^ key[i]). */
// @ts-ignore: decorator
@inline
function accumulate(acc: v128, data: v128, key: v128): v128 {
  const mixed = v128.xor(data, key);
  const low = v128.shuffle<u32>(mixed, mixed, 0, 2, 0, 2);
  const high = v128.shuffle<u32>(mixed, mixed, 1, 3, 1, 3);
  const swapped = v128.shuffle<u64>(data, data, 1, 0);
  return i64x2.add(i64x2.add(acc, swapped), i64x2.extmul_low_i32x4_u(low, high));
}

/** Fifteen stripes for one lane pair; `k0…` are the keys of the lane's successive windows. */
// @ts-ignore: decorator
@inline
function accumulateFifteen(
  acc: v128, data: usize, k0: i64, k1: i64, k2: i64, k3: i64, k4: i64, k5: i64, k6: i64, k7: i64, k8: i64, k9: i64,
  k10: i64, k11: i64, k12: i64, k13: i64, k14: i64, k15: i64,
): v128 {
  acc = accumulate(acc, v128.load(data), i64x2(k0, k1));
  acc = accumulate(acc, v128.load(data, 64), i64x2(k1, k2));
  acc = accumulate(acc, v128.load(data, 128), i64x2(k2, k3));
  acc = accumulate(acc, v128.load(data, 192), i64x2(k3, k4));
  acc = accumulate(acc, v128.load(data, 256), i64x2(k4, k5));
  acc = accumulate(acc, v128.load(data, 320), i64x2(k5, k6));
  acc = accumulate(acc, v128.load(data, 384), i64x2(k6, k7));
  acc = accumulate(acc, v128.load(data, 448), i64x2(k7, k8));
  acc = accumulate(acc, v128.load(data, 512), i64x2(k8, k9));
  acc = accumulate(acc, v128.load(data, 576), i64x2(k9, k10));
  acc = accumulate(acc, v128.load(data, 640), i64x2(k10, k11));
  acc = accumulate(acc, v128.load(data, 704), i64x2(k11, k12));
  acc = accumulate(acc, v128.load(data, 768), i64x2(k12, k13));
  acc = accumulate(acc, v128.load(data, 832), i64x2(k13, k14));
  acc = accumulate(acc, v128.load(data, 896), i64x2(k14, k15));
  return acc;
}

// @ts-ignore: decorator
@inline
function scramble(acc: v128, key: v128): v128 {
  const mixed = v128.xor(v128.xor(acc, i64x2.shr_u(acc, 47)), key);
  return i64x2.mul(mixed, i64x2.splat(PRIME32_1));
}

/** Both halves of the 128-bit product, folded with xor. Wasm has no wide multiply: four 32-bit products. */
// @ts-ignore: decorator
@inline
function multiplyFold(a: u64, b: u64): u64 {
  const lowLow = (a & 0xffffffff) * (b & 0xffffffff);
  const highLow = (a >> 32) * (b & 0xffffffff);
  const lowHigh = (a & 0xffffffff) * (b >> 32);
  const middle = (lowLow >> 32) + (highLow & 0xffffffff) + lowHigh;
  const high = (a >> 32) * (b >> 32) + (highLow >> 32) + (middle >> 32);
  return high ^ ((middle << 32) | (lowLow & 0xffffffff));
}

// @ts-ignore: decorator
@inline
function mix(acc: v128, key0: u64, key1: u64): u64 {
  return multiplyFold(i64x2.extract_lane(acc, 0) ^ key0, i64x2.extract_lane(acc, 1) ^ key1);
}

/** XXH3-64 (seed 0) of the 4096 bytes at `page`, at any alignment. */
export function hashPage(page: usize): u64 {
  let acc0 = i64x2(PRIME32_3, PRIME64_1);
  let acc1 = i64x2(PRIME64_2, PRIME64_3);
  let acc2 = i64x2(PRIME64_4, PRIME32_2);
  let acc3 = i64x2(PRIME64_5, PRIME32_1);
  const lastBlock = page + PAGE_SIZE_BYTES - BLOCK_SIZE_BYTES;
  for (let block = page; ; block += BLOCK_SIZE_BYTES) {
    acc0 = accumulateFifteen(
      acc0, block, SECRET_0, SECRET_8, SECRET_16, SECRET_24, SECRET_32, SECRET_40, SECRET_48, SECRET_56, SECRET_64,
      SECRET_72, SECRET_80, SECRET_88, SECRET_96, SECRET_104, SECRET_112, SECRET_120,
    );
    acc1 = accumulateFifteen(
      acc1, block + 16, SECRET_16, SECRET_24, SECRET_32, SECRET_40, SECRET_48, SECRET_56, SECRET_64, SECRET_72,
      SECRET_80, SECRET_88, SECRET_96, SECRET_104, SECRET_112, SECRET_120, SECRET_128, SECRET_136,
    );
    acc2 = accumulateFifteen(
      acc2, block + 32, SECRET_32, SECRET_40, SECRET_48, SECRET_56, SECRET_64, SECRET_72, SECRET_80, SECRET_88,
      SECRET_96, SECRET_104, SECRET_112, SECRET_120, SECRET_128, SECRET_136, SECRET_144, SECRET_152,
    );
    acc3 = accumulateFifteen(
      acc3, block + 48, SECRET_48, SECRET_56, SECRET_64, SECRET_72, SECRET_80, SECRET_88, SECRET_96, SECRET_104,
      SECRET_112, SECRET_120, SECRET_128, SECRET_136, SECRET_144, SECRET_152, SECRET_160, SECRET_168,
    );
    // The sixteenth stripe of the last block is the last stripe of the page and has the window below.
    if (block == lastBlock) break;
    acc0 = accumulate(acc0, v128.load(block, 960), i64x2(SECRET_120, SECRET_128));
    acc1 = accumulate(acc1, v128.load(block, 976), i64x2(SECRET_136, SECRET_144));
    acc2 = accumulate(acc2, v128.load(block, 992), i64x2(SECRET_152, SECRET_160));
    acc3 = accumulate(acc3, v128.load(block, 1008), i64x2(SECRET_168, SECRET_176));
    acc0 = scramble(acc0, i64x2(SECRET_128, SECRET_136));
    acc1 = scramble(acc1, i64x2(SECRET_144, SECRET_152));
    acc2 = scramble(acc2, i64x2(SECRET_160, SECRET_168));
    acc3 = scramble(acc3, i64x2(SECRET_176, SECRET_184));
  }
  acc0 = accumulate(acc0, v128.load(page, 4032), i64x2(SECRET_121, SECRET_129));
  acc1 = accumulate(acc1, v128.load(page, 4048), i64x2(SECRET_137, SECRET_145));
  acc2 = accumulate(acc2, v128.load(page, 4064), i64x2(SECRET_153, SECRET_161));
  acc3 = accumulate(acc3, v128.load(page, 4080), i64x2(SECRET_169, SECRET_177));

  let result: u64 = <u64>PAGE_SIZE_BYTES * PRIME64_1;
  result += mix(acc0, SECRET_11, SECRET_19);
  result += mix(acc1, SECRET_27, SECRET_35);
  result += mix(acc2, SECRET_43, SECRET_51);
  result += mix(acc3, SECRET_59, SECRET_67);
  result = (result ^ (result >> 37)) * PRIME_MX1;
  return result ^ (result >> 32);
}
