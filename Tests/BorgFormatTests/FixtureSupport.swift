import BorgFormat
import Testing

/// The generator of scripts/record-fixtures, so that both make the same ids. Source: Vigna's SplitMix64.
struct FixtureRandom: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) {
    state = seed
  }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var word = state
    word = (word ^ (word &>> 30)) &* 0xBF58_476D_1CE4_E5B9
    word = (word ^ (word &>> 27)) &* 0x94D0_49BB_1331_11EB
    return word ^ (word &>> 31)
  }

  mutating func bytes(_ count: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    for _ in 0..<count { bytes.append(UInt8(truncatingIfNeeded: next())) }
    return bytes
  }
}

/// Seeds of the random tests: a failure names its own as the test's argument.
let randomSeeds: Range<UInt64> = 0..<24

extension Recorded {
  /// The lines of a table, split into so many columns; `-` is an empty one, and the last may hold blanks.
  static func rows(_ table: String, columns: Int) -> [[String]] {
    table.split(separator: "\n").map { line in
      let parts = line.split(separator: " ", maxSplits: columns - 1, omittingEmptySubsequences: false)
      return parts.map { $0 == "-" ? "" : String($0) }
    }
  }
}

extension [UInt8] {
  /// The bytes of a recorded column of hex digits.
  init(recorded hex: String) throws {
    self = try #require(Hex.decode(hex))
  }

  /// This array, once for each bit, with that bit changed.
  var withEachBitFlipped: [[UInt8]] {
    (0..<(count * 8)).map { bit in
      var copy = self
      copy[bit / 8] ^= 1 << (bit % 8)
      return copy
    }
  }

  /// All proper prefixes, the empty one first.
  var prefixes: [[UInt8]] { indices.map { Array(prefix($0)) } }

  /// Cut at random places, empty pieces included.
  func pieces(seed: UInt64) -> [[UInt8]] {
    var random = FixtureRandom(seed: seed)
    let cuts = (0..<Int.random(in: 0...8, using: &random)).map { _ in
      Int.random(in: 0...count, using: &random)
    }
    var start = 0
    return (cuts + [count]).sorted().map { end in
      defer { start = end }
      return Array(self[start..<end])
    }
  }
}

// `#expect` and `#require` cannot look into calls that take a span, so the tests call these.

extension ObjectID {
  init?(_ bytes: [UInt8]) { self.init(bytes.span) }
  init?(hex bytes: [UInt8]) { self.init(hex: bytes.span) }
}

extension Hex {
  static func word(in bytes: [UInt8], at offset: Int = 0) -> UInt64? { word(in: bytes.span, at: offset) }
}

extension ObjectHeader {
  init(parsing bytes: [UInt8]) throws(ObjectHeaderError) { try self.init(parsing: bytes.span) }
}

extension ObjectVerifier {
  static func findings(in bytes: [UInt8]) -> [ObjectFinding] { findings(in: bytes.span) }
}

extension ChunkIndexHeader {
  init(parsing bytes: [UInt8]) throws(ChunkIndexError) { try self.init(parsing: bytes.span) }
}

extension JSON {
  init(parsing bytes: [UInt8]) throws(JSONError) { try self.init(parsing: bytes.span) }
  init(parsing bytes: [UInt8], maximumSize: Int) throws(JSONError) {
    try self.init(parsing: bytes.span, maximumSize: maximumSize)
  }
}

extension LockRecord {
  init(parsing bytes: [UInt8]) throws(LockRecordError) { try self.init(parsing: bytes.span) }
}

extension Timestamp {
  init?(iso8601 bytes: [UInt8]) { self.init(iso8601: bytes.span) }
}
