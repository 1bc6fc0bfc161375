// What both the plain and the vector code take from the specification (tables 1 to 3).
#pragma once
#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are loaded as they lie in memory");

enum { BLOCK_SIZE = 64, CHUNK_SIZE = 1024, CHUNK_BLOCKS = CHUNK_SIZE / BLOCK_SIZE, ROUNDS = 7 };

enum { CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8 };

static const uint32_t initial[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                                    0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

/// Which message word each round takes where: every row is the one above, permuted once more.
static const uint8_t schedule[ROUNDS][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8},
    {3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1},
    {10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6},
    {12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4},
    {9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7},
    {11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13},
};

/// One round of the compression function upon `state` and `message`, for single words and for vectors of them.
///
/// A macro and not a loop, because the state then stays in registers.
#define ROUND(state, message, order)                                      \
  do {                                                                    \
    MIX(state, 0, 4, 8, 12, message[order[0]], message[order[1]]);        \
    MIX(state, 1, 5, 9, 13, message[order[2]], message[order[3]]);        \
    MIX(state, 2, 6, 10, 14, message[order[4]], message[order[5]]);       \
    MIX(state, 3, 7, 11, 15, message[order[6]], message[order[7]]);       \
    MIX(state, 0, 5, 10, 15, message[order[8]], message[order[9]]);       \
    MIX(state, 1, 6, 11, 12, message[order[10]], message[order[11]]);     \
    MIX(state, 2, 7, 8, 13, message[order[12]], message[order[13]]);      \
    MIX(state, 3, 4, 9, 14, message[order[14]], message[order[15]]);      \
  } while (0)

#define MIX(state, a, b, c, d, x, y)                       \
  do {                                                     \
    state[a] += state[b] + (x);                            \
    state[d] = ROTATED(state[d] ^ state[a], 16);           \
    state[c] += state[d];                                  \
    state[b] = ROTATED(state[b] ^ state[c], 12);           \
    state[a] += state[b] + (y);                            \
    state[d] = ROTATED(state[d] ^ state[a], 8);            \
    state[c] += state[d];                                  \
    state[b] = ROTATED(state[b] ^ state[c], 7);            \
  } while (0)

/// A rotation to the right.
#define ROTATED(word, bits) ((word) >> (bits) | (word) << (32 - (bits)))

#define ROUNDS_UPON(state, message)     \
  do {                                  \
    ROUND(state, message, schedule[0]); \
    ROUND(state, message, schedule[1]); \
    ROUND(state, message, schedule[2]); \
    ROUND(state, message, schedule[3]); \
    ROUND(state, message, schedule[4]); \
    ROUND(state, message, schedule[5]); \
    ROUND(state, message, schedule[6]); \
  } while (0)
