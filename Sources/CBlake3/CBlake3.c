#include "CBlake3.h"

#include "Constants.h"

// --- many inputs at once

/// Inputs of equal size that lie one after the other: whole chunks, or pairs of chaining values that make parents.
struct inputs {
  const uint8_t *bytes;
  size_t blocks;
  /// Of the first input if they are chunks, which are counted; parents all have 0.
  uint64_t counter;
  bool counted;
};

static inline uint32_t flags_of(struct inputs inputs, size_t block) {
  if (!inputs.counted) return PARENT;
  return (block == 0 ? CHUNK_START : 0) | (block == inputs.blocks - 1 ? CHUNK_END : 0);
}

// Four lanes are what every 64-bit CPU has.
#define LANES 4
#define NAME(base) base##_4
#define TARGET
#include "Lanes.h"

#if defined(__x86_64__)
#define LANES 8
#define NAME(base) base##_8
#define TARGET __attribute__((target("avx2")))
#include "Lanes.h"

static bool has_wide_vectors(void) { return __builtin_cpu_supports("avx2"); }
#else
static bool has_wide_vectors(void) { return false; }
#define chaining_values_8 chaining_values_4
#endif

/// The chaining values of any number of inputs. `output` may be where the inputs are: it is written behind the reading.
static void chaining_values(struct inputs inputs, size_t count, bool portable, uint32_t output[][8]) {
  bool wide = !portable && has_wide_vectors();
  size_t lanes = wide ? 8 : 4;
  while (count > 0) {
    size_t taken = count < lanes ? count : lanes;
    (wide ? chaining_values_8 : chaining_values_4)(inputs, taken, output);
    inputs.bytes += taken * inputs.blocks * BLOCK_SIZE;
    inputs.counter += taken;
    output += taken;
    count -= taken;
  }
}

/// The most chunks that one call of `subtree` takes: with 64 of them nearly all vectors are full up to the tree's top.
enum { SUBTREE_CHUNKS = 64 };

/// The two halves of a subtree, as chaining values: it may be the whole tree, so they are not joined yet. `chunks` is a
/// power of two from 2 on.
static void subtree(const uint8_t *input, size_t chunks, uint64_t counter, bool portable, uint32_t halves[2][8]) {
  uint32_t values[SUBTREE_CHUNKS][8];
  struct inputs leaves = {.bytes = input, .blocks = CHUNK_BLOCKS, .counter = counter, .counted = true};
  chaining_values(leaves, chunks, portable, values);
  for (size_t count = chunks; count > 2; count /= 2) {
    struct inputs pairs = {.bytes = (const uint8_t *)values, .blocks = 1};
    chaining_values(pairs, count / 2, portable, values);
  }
  memcpy(halves, values, 2 * sizeof values[0]);
}

// --- one input

/// The last step of a chunk or a parent, which has one flag more if it turns out to be the root.
struct node {
  uint32_t chaining[8];
  uint8_t block[64];
  uint64_t counter;
  uint32_t length;
  uint32_t flags;
};

static void compress(uint32_t chaining[8], const uint8_t block[64], uint64_t counter, uint32_t length, uint32_t flags) {
  uint32_t message[16], state[16];
  memcpy(message, block, sizeof message);
  memcpy(state, chaining, 8 * sizeof state[0]);
  memcpy(state + 8, initial, 4 * sizeof state[0]);
  state[12] = (uint32_t)counter;
  state[13] = (uint32_t)(counter >> 32);
  state[14] = length;
  state[15] = flags;
  ROUNDS_UPON(state, message);
  for (int word = 0; word < 8; word++) chaining[word] = state[word] ^ state[word + 8];
}

static void compress_node(struct node *node, uint32_t more_flags) {
  compress(node->chaining, node->block, node->counter, node->length, node->flags | more_flags);
}

static struct node parent_of(const uint32_t left[8], const uint32_t right[8]) {
  struct node node = {.length = BLOCK_SIZE, .flags = PARENT};
  memcpy(node.chaining, initial, sizeof initial);
  memcpy(node.block, left, 32);
  memcpy(node.block + 32, right, 32);
  return node;
}

// --- the current chunk

static size_t chunk_length(const struct borg_blake3 *state) {
  return (size_t)state->blocks * BLOCK_SIZE + state->block_length;
}

static void start_chunk(struct borg_blake3 *state) {
  memcpy(state->chaining, initial, sizeof initial);
  state->block_length = 0;
  state->blocks = 0;
}

static uint32_t start_flag(const struct borg_blake3 *state) { return state->blocks == 0 ? CHUNK_START : 0; }

/// Adds to the chunk, which has to have room. Its last block is kept, because more flags may belong to it.
static void add_to_chunk(struct borg_blake3 *state, const uint8_t *input, size_t length) {
  while (length > 0) {
    if (state->block_length == BLOCK_SIZE) {
      compress(state->chaining, state->block, state->chunks, BLOCK_SIZE, start_flag(state));
      state->blocks += 1;
      state->block_length = 0;
    }
    size_t room = BLOCK_SIZE - state->block_length, taken = length < room ? length : room;
    memcpy(state->block + state->block_length, input, taken);
    state->block_length += (uint8_t)taken;
    input += taken;
    length -= taken;
  }
}

static struct node chunk_node(const struct borg_blake3 *state) {
  struct node node = {.counter = state->chunks, .length = state->block_length, .flags = start_flag(state) | CHUNK_END};
  memcpy(node.chaining, state->chaining, sizeof node.chaining);
  memcpy(node.block, state->block, state->block_length);
  return node;
}

// --- the tree

/// Joins the subtrees that are of one size, now that it is known that they are not the root: something follows. As many
/// are left as the number of chunks has binary digits that are one.
static void join_subtrees(struct borg_blake3 *state) {
  while (state->stack_count > (uint64_t)__builtin_popcountll(state->chunks)) {
    uint32_t(*top)[8] = state->stack + state->stack_count - 2;
    struct node parent = parent_of(top[0], top[1]);
    compress_node(&parent, 0);
    memcpy(top[0], parent.chaining, sizeof parent.chaining);
    state->stack_count -= 1;
  }
}

static void push(struct borg_blake3 *state, const uint32_t value[8], uint64_t chunks) {
  join_subtrees(state);
  memcpy(state->stack[state->stack_count], value, sizeof state->stack[0]);
  state->stack_count += 1;
  state->chunks += chunks;
}

/// Ends the current chunk, which something follows.
static void push_chunk(struct borg_blake3 *state) {
  struct node node = chunk_node(state);
  compress_node(&node, 0);
  push(state, node.chaining, 1);
  start_chunk(state);
}

/// The largest subtree that may begin at the current chunk and has all of its bytes here.
static size_t subtree_chunks(const struct borg_blake3 *state, size_t length) {
  size_t chunks = SUBTREE_CHUNKS;
  while (chunks * CHUNK_SIZE > length || state->chunks % chunks != 0) chunks /= 2;
  return chunks;
}

void borg_blake3_start(struct borg_blake3 *state, bool portable) {
  start_chunk(state);
  state->portable = portable;
  state->chunks = 0;
  state->stack_count = 0;
}

void borg_blake3_update(struct borg_blake3 *state, const uint8_t *input, size_t length) {
  while (length > 0) {
    size_t held = chunk_length(state), taken;
    if (held == CHUNK_SIZE) {
      push_chunk(state);
      held = 0;
    }
    size_t chunks = held > 0 || length < 2 * CHUNK_SIZE ? 1 : subtree_chunks(state, length);
    if (chunks > 1) {
      uint32_t halves[2][8];
      subtree(input, chunks, state->chunks, state->portable, halves);
      push(state, halves[0], chunks / 2);
      push(state, halves[1], chunks / 2);
      taken = chunks * CHUNK_SIZE;
    } else {
      size_t room = CHUNK_SIZE - held;
      taken = length < room ? length : room;
      join_subtrees(state);
      add_to_chunk(state, input, taken);
    }
    input += taken;
    length -= taken;
  }
}

void borg_blake3_digest(const struct borg_blake3 *state, uint8_t digest[32]) {
  uint64_t left = state->stack_count;
  struct node node;
  if (chunk_length(state) == 0 && left > 0) {
    // The end of a subtree is the end of all: its halves are the last two on the stack.
    node = parent_of(state->stack[left - 2], state->stack[left - 1]);
    left -= 2;
  } else {
    node = chunk_node(state);
  }
  for (; left > 0; left--) {
    compress_node(&node, 0);
    node = parent_of(state->stack[left - 1], node.chaining);
  }
  compress_node(&node, ROOT);
  memcpy(digest, node.chaining, 32);
}
