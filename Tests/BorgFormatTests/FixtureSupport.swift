import TestKit
import BorgFormat
import Testing

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

  /// Cut at random places, empty pieces included.
  func pieces(seed: UInt64) -> [[UInt8]] {
    var random = SeededGenerator(seed: seed)
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
