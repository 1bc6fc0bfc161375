/// The name of an object in a Borg repository: 32 bytes that a client derives from the content with a
/// keyed hash.
///
/// The order is that of the bytes, which is also that of the hex names in `data/`.
/// Source: borg 2.0.0b18 `borg/repository.py`.
public struct ObjectID: Hashable, Comparable, Sendable {
  /// Bytes in an id.
  public static let size = 32

  /// The bytes as big-endian words, first bytes in `word0`: comparing words then compares bytes.
  public let word0: UInt64
  /// Bytes 8 to 15.
  public let word1: UInt64
  /// Bytes 16 to 23.
  public let word2: UInt64
  /// Bytes 24 to 31.
  public let word3: UInt64

  /// An id of four big-endian words.
  public init(_ word0: UInt64, _ word1: UInt64, _ word2: UInt64, _ word3: UInt64) {
    self.word0 = word0
    self.word1 = word1
    self.word2 = word2
    self.word3 = word3
  }

  /// An id of exactly 32 bytes; `nil` for any other number.
  public init?(_ bytes: Span<UInt8>) {
    guard bytes.count == Self.size else { return nil }
    self.init(
      bytes.bigEndianUInt64(at: 0), bytes.bigEndianUInt64(at: 8), bytes.bigEndianUInt64(at: 16),
      bytes.bigEndianUInt64(at: 24))
  }

  /// An id of exactly 64 lower-case hex digits; `nil` for anything else.
  ///
  /// Upper case is refused: two names for one object would be two files, and Borg's store admits no
  /// capitals.
  public init?(hex text: Span<UInt8>) {
    guard text.count == Self.size * 2,
      let word0 = Hex.word(in: text, at: 0), let word1 = Hex.word(in: text, at: 16),
      let word2 = Hex.word(in: text, at: 32), let word3 = Hex.word(in: text, at: 48)
    else { return nil }
    self.init(word0, word1, word2, word3)
  }

  /// An id of exactly 64 lower-case hex digits; `nil` for anything else.
  public init?(hex text: String) {
    self.init(hex: text.utf8.span)
  }

  /// The 64 lower-case hex digits, which name the object in `data/`.
  public var hex: String {
    var text: [UInt8] = []
    text.reserveCapacity(Self.size * 2)
    appendHex(to: &text)
    return String(decoding: text, as: UTF8.self)
  }

  /// Appends the 64 lower-case hex digits.
  public func appendHex(to text: inout [UInt8]) {
    Hex.append(word0, to: &text)
    Hex.append(word1, to: &text)
    Hex.append(word2, to: &text)
    Hex.append(word3, to: &text)
  }

  /// One of the 32 bytes.
  func byte(_ index: Int) -> UInt8 {
    let word =
      switch index &>> 3 {
      case 0: word0
      case 1: word1
      case 2: word2
      default: word3
      }
    return UInt8(truncatingIfNeeded: word &>> UInt64(56 - 8 * (index & 7)))
  }

  /// The 32 bytes.
  public var bytes: [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(Self.size)
    append(to: &bytes)
    return bytes
  }

  /// Appends the 32 bytes.
  public func append(to bytes: inout [UInt8]) {
    bytes.append(bigEndian: word0)
    bytes.append(bigEndian: word1)
    bytes.append(bigEndian: word2)
    bytes.append(bigEndian: word3)
  }

  /// Feeds half of the id: it is a cryptographic hash already, so any part of it spreads as well as the
  /// whole.
  public func hash(into hasher: inout Hasher) {
    hasher.combine(word0)
    hasher.combine(word3)
  }

  /// Compares as the bytes compare.
  public static func < (left: Self, right: Self) -> Bool {
    if left.word0 != right.word0 { return left.word0 < right.word0 }
    if left.word1 != right.word1 { return left.word1 < right.word1 }
    if left.word2 != right.word2 { return left.word2 < right.word2 }
    return left.word3 < right.word3
  }
}
