// swift-format-ignore-file
// Written by scripts/record-answers from borg 2.0.0b18: record again instead of editing.

/// What Python's msgpack 1.1.1 makes of values, one case a line; columns are separated by blanks, `-` is nothing.
enum Recorded {
  /// Kind, value (a float's as the hex of its bits), and the hex of the encoded value.
  static let scalars = #"""
    int 0 00
    int 1 01
    int 127 7f
    int 128 cc80
    int 255 ccff
    int 256 cd0100
    int 65535 cdffff
    int 65536 ce00010000
    int 4294967295 ceffffffff
    int 4294967296 cf0000000100000000
    int 9223372036854775807 cf7fffffffffffffff
    int -1 ff
    int -32 e0
    int -33 d0df
    int -128 d080
    int -129 d1ff7f
    int -32768 d18000
    int -32769 d2ffff7fff
    int -2147483648 d280000000
    int -2147483649 d3ffffffff7fffffff
    int -9223372036854775808 d38000000000000000
    uint 9223372036854775808 cf8000000000000000
    uint 18446744073709551615 cfffffffffffffffff
    float 0000000000000000 cb0000000000000000
    single 3fe0000000000000 ca3f000000
    float 8000000000000000 cb8000000000000000
    single 3fe0000000000000 ca3f000000
    float 3ff8000000000000 cb3ff8000000000000
    single 3fe0000000000000 ca3f000000
    float fe37e43c8800759c cbfe37e43c8800759c
    single 3fe0000000000000 ca3f000000
    float 0000000000000001 cb0000000000000001
    single 3fe0000000000000 ca3f000000
    float 7ff0000000000000 cb7ff0000000000000
    single 3fe0000000000000 ca3f000000
    nil - c0
    bool false c2
    bool true c3
    """#

  /// Kind and length of a string or container, and the hex of the bytes before its content.
  static let heads = #"""
    string 0 a0
    binary 0 c400
    array 0 90
    map 0 80
    string 1 a1
    binary 1 c401
    array 1 91
    map 1 81
    string 15 af
    binary 15 c40f
    array 15 9f
    map 15 8f
    string 16 b0
    binary 16 c410
    array 16 dc0010
    map 16 de0010
    string 31 bf
    binary 31 c41f
    array 31 dc001f
    map 31 de001f
    string 32 d920
    binary 32 c420
    array 32 dc0020
    map 32 de0020
    string 255 d9ff
    binary 255 c4ff
    array 255 dc00ff
    map 255 de00ff
    string 256 da0100
    binary 256 c50100
    array 256 dc0100
    map 256 de0100
    string 65535 daffff
    binary 65535 c5ffff
    array 65535 dcffff
    map 65535 deffff
    string 65536 db00010000
    binary 65536 c600010000
    array 65536 dd00010000
    map 65536 df00010000
    extension 2 d4
    extension 3 d5
    extension 4 c703
    extension 5 d6
    extension 9 d7
    extension 17 d8
    extension 18 c711
    extension 256 c7ff
    extension 257 c80100
    extension 65536 c8ffff
    extension 65537 c900010000
    """#

  /// Hex of encoded values of many kinds.
  static let values = #"""
    83a16901a16da96e65676f7469617465a16181ab636c69656e745f6461746181ae636c69656e745f76657273696f6e95020000fd12
    94908092c092c392cb3ff800000000000092c40200ff92a2c3bc92ff91ce0001117081a16181a16281a16390
    c705013132333435
    d7ff0000000800000001
    95d40078d5017878d60278787878d7037878787878787878d80478787878787878787878787878787878
    8401cf0000010000000000d1ff38cd012ccb4004000000000000d92878787878787878787878787878787878787878787878787878787878787878787878787878787878c5012c6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6bc0
    """#
}
