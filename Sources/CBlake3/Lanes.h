// The compression function upon LANES inputs at once, one in each lane of a vector. Included once for each width, with
// LANES, NAME(base), which gives names their ending, and TARGET, the CPU that the code is for.

typedef uint32_t NAME(words) __attribute__((vector_size(4 * LANES)));

#define CROSSED(step, even, odd)                                             \
  for (int row = 0; row < LANES; row++) {                                    \
    if (row & step) continue;                                                \
    NAME(words) upper = square[row], lower = square[row + step];             \
    square[row] = __builtin_shufflevector(upper, lower, even);               \
    square[row + step] = __builtin_shufflevector(upper, lower, odd);         \
  }

/// Transposes a square of words: exchanges the blocks beside the diagonal, from halves down to single words.
TARGET static inline void NAME(transpose)(NAME(words) square[LANES]) {
#if LANES == 8
#define EVEN_1 0, 8, 2, 10, 4, 12, 6, 14
#define ODD_1 1, 9, 3, 11, 5, 13, 7, 15
#define EVEN_2 0, 1, 8, 9, 4, 5, 12, 13
#define ODD_2 2, 3, 10, 11, 6, 7, 14, 15
#define EVEN_4 0, 1, 2, 3, 8, 9, 10, 11
#define ODD_4 4, 5, 6, 7, 12, 13, 14, 15
  CROSSED(4, EVEN_4, ODD_4)
#else
#define EVEN_1 0, 4, 2, 6
#define ODD_1 1, 5, 3, 7
#define EVEN_2 0, 1, 4, 5
#define ODD_2 2, 3, 6, 7
#endif
  CROSSED(2, EVEN_2, ODD_2)
  CROSSED(1, EVEN_1, ODD_1)
}

/// Word `n` of all inputs' block in `message[n]`.
TARGET static inline void NAME(load)(NAME(words) message[16], const uint8_t *const inputs[LANES], size_t offset) {
  for (int first = 0; first < 16; first += LANES) {
    for (int lane = 0; lane < LANES; lane++)
      memcpy(&message[first + lane], inputs[lane] + offset + 4 * first, sizeof message[0]);
    NAME(transpose)(message + first);
  }
}

/// The chaining values of up to LANES inputs; see struct inputs.
TARGET static void NAME(chaining_values)(struct inputs from, size_t count, uint32_t output[][8]) {
  const uint8_t *inputs[LANES];
  NAME(words) low = {0}, high = {0}, chaining[8];
  for (size_t lane = 0; lane < LANES; lane++) {
    // A lane without an input repeats the first one's; nobody looks at what it makes of it.
    inputs[lane] = from.bytes + from.blocks * BLOCK_SIZE * (lane < count ? lane : 0);
    uint64_t counter = from.counted ? from.counter + lane : 0;
    low[lane] = (uint32_t)counter;
    high[lane] = (uint32_t)(counter >> 32);
  }
  for (int word = 0; word < 8; word++) chaining[word] = initial[word] - (NAME(words)){0};
  for (size_t block = 0; block < from.blocks; block++) {
    uint32_t flags = flags_of(from, block);
    NAME(words) message[16], state[16];
    NAME(load)(message, inputs, block * BLOCK_SIZE);
    for (int word = 0; word < 8; word++) state[word] = chaining[word];
    for (int word = 0; word < 4; word++) state[word + 8] = initial[word] - (NAME(words)){0};
    state[12] = low;
    state[13] = high;
    state[14] = BLOCK_SIZE - (NAME(words)){0};
    state[15] = flags - (NAME(words)){0};
    ROUNDS_UPON(state, message);
    for (int word = 0; word < 8; word++) chaining[word] = state[word] ^ state[word + 8];
  }
  uint32_t values[LANES][8];
  for (int first = 0; first < 8; first += LANES) {
    NAME(transpose)(chaining + first);
    for (int lane = 0; lane < LANES; lane++) memcpy(&values[lane][first], &chaining[first + lane], sizeof chaining[0]);
  }
  memcpy(output, values, count * sizeof values[0]);
}

#undef CROSSED
#undef EVEN_1
#undef EVEN_2
#undef EVEN_4
#undef ODD_1
#undef ODD_2
#undef ODD_4
#undef LANES
#undef NAME
#undef TARGET
