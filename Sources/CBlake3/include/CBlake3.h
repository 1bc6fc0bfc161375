// BLAKE3 in its plain hash mode with a digest of 32 bytes. Debian 12 has no library for it.
//
// Source: "BLAKE3: one function, fast everywhere" (O'Connor, Aumasson, Neves, Wilcox-O'Hearn), sections 2 and 5.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// A hash in the making: plain data, which may be copied and moved. About 1.9 KB.
struct borg_blake3 {
  /// The current chunk: its chaining value after `blocks` blocks of 64 bytes, and the bytes after these.
  uint32_t chaining[8];
  uint8_t block[64];
  uint8_t block_length;
  uint8_t blocks;
  /// Whether the CPU's wider vectors are left unused.
  bool portable;
  /// Whole chunks before the current one.
  uint64_t chunks;
  /// The roots of the subtrees that these make, largest first; the last two may still have to be joined.
  /// 2^64 bytes have 2^54 chunks, hence at most 54 subtrees and one to be joined.
  uint64_t stack_count;
  uint32_t stack[55][8];
};

/// The hash of nothing. `portable` leaves the CPU's wider vectors unused, as tests want it.
void borg_blake3_start(struct borg_blake3 *state, bool portable);

/// Adds bytes; fastest in multiples of 64 KiB. `input` may be null if `length` is 0.
void borg_blake3_update(struct borg_blake3 *state, const uint8_t *input, size_t length);

/// Writes the digest of all bytes so far; more may follow.
void borg_blake3_digest(const struct borg_blake3 *state, uint8_t digest[32]);
