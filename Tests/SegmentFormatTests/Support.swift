import BorgFormat
import TestKit
import Testing

extension Recorded {
  /// The lines of a table, split at blanks; `-` is nothing.
  static func rows(_ table: String) -> [[String]] {
    table.split(separator: "\n").map { line in
      line.split(separator: " ").map { $0 == "-" ? "" : String($0) }
    }
  }
}

extension [UInt8] {
  /// The bytes of a recorded column of hex digits.
  init(recorded hex: some StringProtocol) throws {
    self = try #require(Hex.decode(String(hex)))
  }
}

extension String {
  /// The text of a recorded column of hex digits.
  init(recorded hex: some StringProtocol) throws {
    self.init(decoding: try [UInt8](recorded: hex), as: UTF8.self)
  }
}

extension ObjectID {
  init(recorded hex: some StringProtocol) throws {
    self = try #require(ObjectID(hex: String(hex)))
  }
}

/// What decoders have to survive: every prefix, every flipped bit.
func damaged(_ bytes: [UInt8]) -> [[UInt8]] { bytes.prefixes + bytes.withEachBitFlipped }

// `#expect` and `#require` cannot look into calls that take a span, so the tests call these.

extension ObjectID {
  init?(_ bytes: [UInt8]) { self.init(bytes.span) }
}

extension SegmentEntryHeader {
  init?(_ bytes: [UInt8], at offset: Int) { self.init(bytes.span, at: offset) }
}

extension IndexHeader {
  init(parsing bytes: [UInt8], fileSize: Int) throws(IndexFault) {
    try self.init(parsing: bytes.span, fileSize: fileSize)
  }
}

extension FileDigest {
  init(parsing bytes: [UInt8]) { self.init(parsing: bytes.span) }
}
