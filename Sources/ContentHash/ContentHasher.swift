import BorgFormat

/// A content hash in the making: over any number of pieces, in bounded memory.
///
/// Plain data of about 2 KB without references, hence not copyable by accident. No call takes memory or blocks; a call's
/// time is that of its bytes. Any division into pieces gives the same digest; pieces of 64 KiB and more are fastest.
public struct ContentHasher: ~Copyable, Sendable {
  /// The algorithm that this hasher was made for.
  public let algorithm: HashAlgorithm
  // Side by side, not as an enumeration's payloads, which could not be changed in place.
  private var sha256: SHA256State
  private var blake3: BLAKE3State

  /// The hash of nothing.
  public init(_ algorithm: HashAlgorithm) {
    self.init(algorithm, portable: false)
  }

  /// As above; `portable` leaves the CPU's wider vectors to BLAKE3 unused, so that tests reach both codes.
  init(_ algorithm: HashAlgorithm, portable: Bool) {
    self.algorithm = algorithm
    self.sha256 = SHA256State()
    self.blake3 = BLAKE3State(portable: portable)
  }

  /// Adds the bytes that follow those of earlier calls; no limit on their number.
  public mutating func update(_ bytes: Span<UInt8>) {
    switch algorithm {
    case .sha256: sha256.update(bytes)
    case .blake3: blake3.update(bytes)
    }
  }

  /// Adds a part of an array, which has to lie in it.
  public mutating func update(_ bytes: [UInt8], _ range: Range<Int>) {
    update(bytes.span.extracting(range))
  }

  /// Adds the bytes of an array.
  public mutating func update(_ bytes: [UInt8]) {
    update(bytes.span)
  }

  /// The digest of all bytes so far; further updates stay possible.
  public func finalize() -> ContentDigest {
    let bytes =
      switch algorithm {
      case .sha256: sha256.digest()
      case .blake3: blake3.digest()
      }
    let span = bytes.span
    return ContentDigest(
      ObjectID(
        span.bigEndianUInt64(at: 0), span.bigEndianUInt64(at: 8), span.bigEndianUInt64(at: 16),
        span.bigEndianUInt64(at: 24)))
  }

  /// The digest of a text that is in memory as a whole.
  public static func digest(of bytes: Span<UInt8>, by algorithm: HashAlgorithm) -> ContentDigest {
    var hasher = ContentHasher(algorithm)
    hasher.update(bytes)
    return hasher.finalize()
  }
}
